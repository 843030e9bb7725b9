"""What measured slowdowns and latencies say of a model on a device, and how surely.

A batch's demand shows only where batches want more than there is: below that any smaller one
would explain the slowdowns as well. So each figure comes with the range that explains what was
measured almost as well, and the greatest of these stands where the range is wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from paldia.core.errors import InvalidArgumentError

Floats: TypeAlias = npt.NDArray[np.float64]

FULL_SPEED = 0.95
"""A share of the SMs that leaves so much of the speed is enough."""
APART = 0.1
"""Demands that lie closer together than this are told apart."""
CURVES_DIFFER = 0.15
"""Slowdowns of two batch sizes that lie closer together than this, as a share, are one curve."""
_AS_GOOD = 0.01
"""An error that is greater by so little, as a share of the slowdown, is none."""
_DEMANDS = np.arange(1, 251) / 250
_PENALTIES = np.arange(201) / 250


@dataclass(frozen=True, slots=True)
class SharingFit:
    """How batches of one model share a device, from how much they slow each other.

    Attributes:
        demand: (batch size, share of the device that one such batch takes), by ascending size.
        between: (batch size, least, greatest share) that explain the slowdowns almost as well.
        penalty: extra cost of each further batch that runs beside one.
        error: root of the mean square of (measured - fitted) / measured.
    """

    demand: tuple[tuple[int, float], ...]
    between: tuple[tuple[int, float, float], ...]
    penalty: float
    error: float

    @property
    def is_bound(self) -> bool:
        """Whether some demand is known only to be no greater than the greatest."""
        return any(high - low > APART for _, low, high in self.between)


def fit_sharing(curves: Mapping[int, Sequence[float]], known: float | None = None) -> SharingFit:
    """Fit S(k) = max(1, k f(b)) (1 + eps (k - 1)) by least squares (docs/policy.md, step 3).

    One eps for all sizes, an f for each.

    Args:
        curves: by batch size, the slowdown of each of 1, 2, ... of its batches together.
        known: demand as seen otherwise, such as by processor time; where the slowdowns leave a
            wide range open, that of it which comes closest to this stands, not the greatest.

    Raises:
        InvalidArgumentError: there is no curve, or a slowdown isn't above 0.
    """
    if not curves or any(not curve or not min(curve) > 0 for curve in curves.values()):
        raise InvalidArgumentError("a fit needs slowdowns, each above 0")
    sizes = sorted(curves)
    squares = [_squares(np.array(curves[size], dtype=float)) for size in sizes]
    points = sum(len(curve) for curve in curves.values())
    # By penalty, with the best demand of each size.
    best = np.array([by_demand.min(axis=0) for by_demand in squares])
    least_rms = math.sqrt(best.sum(axis=0).min() / points)
    allowed = points * (least_rms + _AS_GOOD) ** 2
    demand, between, total = [], [], np.zeros(len(_PENALTIES))
    for index, (size, by_demand) in enumerate(zip(sizes, squares, strict=True)):
        others = np.delete(best, index, axis=0).sum(axis=0)
        error = (by_demand + others).min(axis=1)
        open_ = np.flatnonzero(error <= allowed)
        low, high = _DEMANDS[open_[0]], _DEMANDS[open_[-1]]
        at = int(error.argmin())
        if high - low > APART:
            wanted = high if known is None else min(max(known, low), high)
            at = int(np.abs(_DEMANDS - wanted).argmin())
        demand.append((size, float(_DEMANDS[at])))
        between.append((size, float(low), float(high)))
        total += by_demand[at]
    eps = int(total.argmin())
    error_rms = math.sqrt(total[eps] / points)
    return SharingFit(tuple(demand), tuple(between), float(_PENALTIES[eps]), error_rms)


def _squares(slowdowns: Floats) -> Floats:
    """Summed squares of the relative errors: of each demand, and of each penalty with it."""
    batches = np.arange(1, len(slowdowns) + 1)
    stretch = np.maximum(1.0, _DEMANDS[:, None, None] * batches)
    fitted = stretch * (1 + _PENALTIES[None, :, None] * (batches - 1))
    squares: Floats = ((fitted / slowdowns - 1) ** 2).sum(axis=2)
    return squares


def common_curve(curves: Mapping[int, Sequence[float]]) -> tuple[float, ...]:
    """Give the one curve that holds for all batch sizes; empty where they differ.

    The mean of what was measured, as long as all are; never below 1, nor falling: more batches
    don't speed each other up, that is chance.
    """
    length = min(map(len, curves.values()), default=0)
    rows = np.array([curve[:length] for curve in curves.values()], dtype=float)
    if not length or float((rows.max(axis=0) / rows.min(axis=0)).max()) > 1 + CURVES_DIFFER:
        return ()
    risen = np.maximum.accumulate(np.maximum(1.0, rows.mean(axis=0)))
    return tuple(map(float, risen))


def least_sm_share(latencies: Sequence[tuple[int, float]]) -> float:
    """Give the least share of the SMs that leaves a batch 95 % of its full speed.

    docs/policy.md, step 2; straight lines between the speeds at the shares that were measured.

    Args:
        latencies: (percent of the SMs, seconds that a batch takes there), ascending; the last
            at 100.

    Raises:
        InvalidArgumentError: the shares don't rise to 100, or a time isn't above 0 s.
    """
    shares = [share for share, _ in latencies]
    if not shares or shares != sorted(set(shares)) or shares[0] < 1 or shares[-1] != 100:
        raise InvalidArgumentError(f"shares of the SMs must rise to 100 %, not {shares}")
    if any(not latency_s > 0 for _, latency_s in latencies):
        raise InvalidArgumentError("a batch takes more than 0 s")
    full_s = latencies[-1][1]
    speeds = [full_s / latency_s for _, latency_s in latencies]
    for at in range(len(speeds) - 1, -1, -1):
        if speeds[at] < FULL_SPEED:
            low, slow = shares[at], speeds[at]
            rise = (FULL_SPEED - slow) / (speeds[at + 1] - slow)
            return (low + (shares[at + 1] - low) * rise) / 100
    return shares[0] / 100
