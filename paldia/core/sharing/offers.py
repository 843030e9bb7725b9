"""What each kind of hardware could do for each model, and how much company each bears.

Whether a way to share keeps a model's SLO depends on its node only by how much of the device
others take, and the more they take the worse it gets. So there is a greatest share that it
bears, its tolerance, and to ask whether it fits a node is to compare two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from paldia.core.config import PolicyConfig
from paldia.core.sharing.asks import TINY, Ask, Stack
from paldia.core.sharing.costs import Floats, Ints
from paldia.core.sharing.prediction import Prediction, SharingRule, Way
from paldia.core.sharing.ways import CHUNK_VALUES, best_ways

RUNGS = 9
"""Levels of neighbours, from none to as many as a device may have, at which ways are judged."""
STEPS = 8
"""Parts that the interval between two rungs is searched by for the tolerance."""
LEVELS = np.array([[0.0, 0.3, 0.6]])
"""Shares of the device taken by neighbours, for which the best way is sought."""


@dataclass(eq=False, slots=True)
class Offers:
    """Ways to share, a row for each ask and a column for each of its ways.

    Attributes:
        rung: difference in others' share between two rungs.
        nodes: how many nodes the model's work is divided over.
        used: share of the device that the way takes; `memory_bytes`, memory of all its lanes.
        tolerance: greatest share that others may take; below 0 if it bears nobody, not even
            itself alone.
        able: whether it would keep up alone.
        latency_s, capacity, pending: predictions, with a third axis for the rungs.
    """

    asks: list[Ask]
    rung: float
    nodes: Ints
    batch: Ints
    lanes: Ints
    used: Floats
    memory_bytes: Floats
    tolerance: Floats
    able: npt.NDArray[np.bool_]
    latency_s: Floats
    capacity: Floats
    pending: Floats

    def _arrays(self) -> list[npt.NDArray[Any]]:
        return [getattr(self, each.name) for each in fields(self)[2:]]

    def take_over(self, which: Ints, other: Offers) -> None:
        """Put the rows of another in place of some of these."""
        for mine, others in zip(self._arrays(), other._arrays(), strict=True):
            mine[which] = others
        for row, ask in zip(which.tolist(), other.asks, strict=True):
            self.asks[row] = ask

    def foretold(self, row: int, way: int, others: float) -> tuple[float, float, int]:
        """Give latency in seconds, requests/s and pending requests, by the rung at or above.

        A latency that its tolerance says is kept is not shown above what is allowed.
        """
        rung = min(RUNGS - 1, max(0, math.ceil(others / self.rung - TINY)))
        latency_s = float(self.latency_s[row, way, rung])
        if others <= self.tolerance[row, way] + TINY:
            latency_s = min(latency_s, self.asks[row].allowed_s)
        capacity = float(self.capacity[row, way, rung])
        return latency_s, capacity, int(self.pending[row, way, rung])


def judged(
    asks: Sequence[Ask],
    rule: SharingRule,
    config: PolicyConfig,
    levels: Floats = LEVELS,
) -> Offers:
    """Find the ways worth having, and what they bear; one ask at least."""
    batch, lanes = best_ways(asks, levels, rule, config)
    return measured(asks, batch, lanes, config)


def measured(asks: Sequence[Ask], batch: Ints, lanes: Ints, config: PolicyConfig) -> Offers:
    """Find what given ways bear, a row of them for each ask."""
    step = max(1, CHUNK_VALUES // (batch.shape[1] * RUNGS))
    parts = [
        _measured(asks[first:last], batch[first:last], lanes[first:last], config)
        for first, last in ((first, first + step) for first in range(0, len(asks), step))
    ]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    rung = config.utilisation_limit / (RUNGS - 1)
    return Offers(list(asks), rung, np.ones(len(asks), dtype=np.int64), batch, lanes, *columns)


def _measured(
    asks: Sequence[Ask], batch: Ints, lanes: Ints, config: PolicyConfig
) -> list[npt.NDArray[np.float64]]:
    stack = Stack(asks, axes=2)
    most_lanes = int(lanes.max())
    batch, lanes = batch[..., np.newaxis], lanes[..., np.newaxis]
    way = Way(stack.costs, batch, lanes)
    used = (stack.demand.requests_per_second / batch * way.full_s * way.full_demand)[..., 0]
    memory_bytes = lanes[..., 0] * np.array([[float(ask.profile.memory_bytes)] for ask in asks])

    def kept(others: Floats) -> tuple[Prediction, Any, Any]:
        foretold, able = stack.foretell(batch, lanes, others, config, most_lanes)
        return foretold, able, able & (foretold.latency_s <= stack.allowed_s)

    rungs = _rungs(config.utilisation_limit)
    foretold, able, good = kept(rungs)
    # The last rung up to which all is well, and then the last part of the way to the next.
    last = np.logical_and.accumulate(good, axis=-1).sum(axis=-1) - 1
    tolerance = np.where(last >= 0, rungs[last], -1.0)
    if ((last >= 0) & (last < RUNGS - 1)).any():
        between = np.arange(1, STEPS) / STEPS * (rungs[1] - rungs[0])
        start = rungs[np.maximum(0, last)]
        _, _, further = kept(start[..., np.newaxis] + between)
        steps = np.logical_and.accumulate(further, axis=-1).sum(axis=-1)
        finer = start + steps / STEPS * (rungs[1] - rungs[0])
        tolerance = np.where((last >= 0) & (last < RUNGS - 1), finer, tolerance)
    return [
        used,
        memory_bytes,
        tolerance,
        able[..., 0],
        foretold.latency_s,
        foretold.capacity,
        np.broadcast_to(foretold.pending, able.shape),
    ]


@lru_cache(maxsize=16)
def _rungs(highest: float) -> Floats:
    return np.linspace(0.0, highest, RUNGS)


def divided(
    fewest: Ints,
    most: Ints,
    ask: Callable[[int, int], Ask],
    rule: SharingRule,
    config: PolicyConfig,
) -> Offers:
    """Judge pairs of a model and a kind, each with the fewest nodes that keep its SLO.

    `fewest` and `most` bound the nodes of each pair, and `ask(pair, nodes)` says what it asks
    of one of so many. A pair that can't keep its SLO with any number takes the fewest with
    which it is about as fast as with the most.
    """

    def asked(pairs: Ints, counts: Ints) -> list[Ask]:
        numbers = zip(pairs.tolist(), counts.tolist(), strict=True)
        return [ask(pair, count) for pair, count in numbers]

    def speed(pairs: Ints, counts: Ints) -> _Speed:
        return _Speed(asked(pairs, counts), rule, config)

    every = np.arange(len(fewest))
    offers = judged(asked(every, fewest), rule, config)
    low, high = fewest.copy(), fewest.copy()
    # Twice as many more each time, until it is enough.
    rest, more = every[(offers.tolerance.max(axis=1) < 0) & (fewest < most)], 1
    target_s, hopeless = np.zeros(len(fewest)), rest[:0]
    while len(rest):
        high[rest] = np.minimum(fewest[rest] + more, most[rest])
        found = speed(rest, high[rest])
        lost = ~found.kept & (high[rest] == most[rest])
        target_s[rest[lost]] = found.latency_s[lost] / (1 - config.improvement)
        hopeless = np.concatenate([hopeless, rest[lost]])
        going_on = ~found.kept & ~lost
        low[rest[going_on]] = high[rest[going_on]]
        rest, more = rest[going_on], 2 * more + 1
    low[hopeless] = fewest[hopeless] - 1
    rest = every[high - low > 1]
    while len(rest):
        middle = (low[rest] + high[rest]) // 2
        found = speed(rest, middle)
        fine = found.kept | (found.latency_s <= target_s[rest])
        high[rest[fine]], low[rest[~fine]] = middle[fine], middle[~fine]
        rest = rest[high[rest] - low[rest] > 1]
    offers.nodes[:] = high
    changed = every[high > fewest]
    if len(changed):
        better = judged(asked(changed, high[changed]), rule, config)
        better.nodes[:] = high[changed]
        offers.take_over(changed, better)
    return offers


class _Speed:
    """How fast the best way is without neighbours; inf if none keeps up, and the SLO isn't kept."""

    def __init__(self, asks: Sequence[Ask], rule: SharingRule, config: PolicyConfig) -> None:
        batch, lanes = best_ways(asks, np.zeros((1, 1)), rule, config, leanest=False)
        stack = Stack(asks, axes=1)
        foretold, able = stack.foretell(batch, lanes, np.zeros((1, 1)), config, int(lanes.max()))
        self.latency_s: Floats = np.where(able, foretold.latency_s, math.inf).min(axis=1)
        self.kept: npt.NDArray[np.bool_] = self.latency_s <= stack.allowed_s[:, 0]
