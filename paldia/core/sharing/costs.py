"""What batches cost, tabulated by their rows: one profile, or many to be judged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from paldia.core.profiles import Amount, Curve, Profile, batch_latency_s

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """What batches cost, by their rows: of one profile, or of several, one after the other.

    Attributes:
        latency_s: seconds that a batch of 0, 1, 2, ... rows takes alone; index 0 is never
            asked for. `demand` is the share of the device that it takes, likewise.
        start: where a profile's costs begin in these: 0, or an array with one a profile, and
            as many axes of length 1 behind it as the grid of batches and lanes has.
        penalty: co-location penalty of the profile, or of each.
        curve: measured slowdowns; None if there are none at all.
    """

    latency_s: Floats
    demand: Floats
    start: Amount
    penalty: Amount
    curve: Curve | None


@lru_cache(maxsize=1 << 16)
def costs_of(profile: Profile, sm_percent: int) -> Costs:
    """Tabulate a profile in a process that is held to a share of the SMs."""
    return held_costs(profile, (sm_percent,), axes=0)


def held_costs(profile: Profile, sm_percents: Sequence[int], axes: int) -> Costs:
    """Tabulate a profile for each of some shares of the SMs; as `stacked` if there are axes."""
    rows = np.maximum(1, np.arange(profile.largest_batch + 1))
    latency_s = _latency_s(profile.points, rows)
    demand = _demand(profile, rows, latency_s)
    if profile.sm_share and min(sm_percents) < 100:
        percents = np.array(sm_percents)[:, np.newaxis]
        stretch = np.maximum(1.0, _between(profile.sm_share, rows) * 100 / percents)
        latency_s, demand = (latency_s * stretch).ravel(), (demand / stretch).ravel()
    start = np.arange(len(latency_s) // len(rows)) * len(rows)
    curve = Curve(np.array(profile.interference), 0, len(profile.interference))
    return Costs(
        latency_s,
        demand,
        start.reshape(-1, *[1] * axes) if axes else 0,
        profile.colocation_penalty,
        curve if profile.interference else None,
    )


def _between(points: Sequence[tuple[int, float]], rows: Ints) -> Floats:
    sizes, values = np.array(points).T
    return np.interp(rows, sizes, values)


def _demand(profile: Profile, rows: Ints, latency_s: Floats) -> Floats:
    """As `Profile.demand_fraction` at full speed, for many sizes with their latencies."""
    sizes, shares = np.array(profile.demand).T
    if len(sizes) == 1:
        return np.full(len(rows), shares[0])
    work_s = shares * [batch_latency_s(profile.points, int(size)) for size in sizes]
    after = np.clip(np.searchsorted(sizes, rows), 1, len(sizes) - 1)
    low, high = after - 1, after
    part = (rows - sizes[low]) / (sizes[high] - sizes[low])
    share = (work_s[low] + (work_s[high] - work_s[low]) * part) / latency_s
    share = np.minimum(1.0, np.maximum(np.minimum(shares[low], shares[high]), share))
    known = [rows <= sizes[0], rows == sizes[low], rows == sizes[high]]
    return np.select(known, [shares[0], shares[low], shares[high]], share)


def _latency_s(points: Sequence[tuple[int, float]], rows: Ints) -> Floats:
    """As `batch_latency_s`, for many sizes up to the largest that was measured."""
    sizes, seconds = np.array(points).T
    after = np.searchsorted(sizes, rows)
    before = np.maximum(0, after - 1)
    part = (rows - sizes[before]) / np.maximum(1, sizes[after] - sizes[before])
    between = np.maximum(
        seconds[before], seconds[before] + (seconds[after] - seconds[before]) * part
    )
    return np.where(after == 0, seconds[0], between)


@lru_cache(maxsize=128)
def stacked(costs: tuple[Costs, ...], axes: int) -> Costs:
    """Put the costs of several profiles together, for a grid that has `axes` axes for each."""

    def column(values: npt.ArrayLike) -> npt.NDArray[Any]:
        return np.array(values).reshape(-1, *[1] * axes)

    sizes = [len(each.latency_s) for each in costs]
    curves = [each.curve for each in costs]
    lengths = [len(curve.factors) if curve else 0 for curve in curves]
    return Costs(
        np.concatenate([each.latency_s for each in costs]),
        np.concatenate([each.demand for each in costs]),
        column(np.cumsum([0, *sizes[:-1]])),
        column([each.penalty for each in costs]),
        Curve(
            np.concatenate([curve.factors for curve in curves if curve]),
            column(np.cumsum([0, *lengths[:-1]])),
            column(lengths),
        )
        if any(lengths)
        else None,
    )
