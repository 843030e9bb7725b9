"""What is known of a model on a kind of hardware, and how batches slow each other."""

from __future__ import annotations

import bisect
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from paldia.core.errors import InvalidArgumentError

Amount: TypeAlias = Any
"""A number, or an array of numbers: the formulas hold for both."""


class Provenance(enum.Enum):
    """Where a figure comes from; shown wherever the figure is."""

    MEASURED = "measured"
    IMPORTED = "imported"
    ESTIMATED = "estimated"


def batch_latency_s(points: Sequence[tuple[int, float]], batch: int) -> float:
    """Give the seconds one batch takes alone, from measured (size, seconds) by ascending size.

    Linear between points, never below a smaller batch. Below the smallest point that point
    holds; beyond the largest the last slope goes on, and a single point is scaled.
    """
    after = min(bisect.bisect_left(points, (batch, -math.inf)), len(points) - 1)
    high, high_s = points[after]
    if after == 0:
        return high_s * max(1.0, batch / high)
    low, low_s = points[after - 1]
    return max(low_s, low_s + (high_s - low_s) * (batch - low) / (high - low))


def _between(points: Sequence[tuple[int, float]], batch: int) -> float:
    """Linear between points, level beyond both ends."""
    after = bisect.bisect_left(points, (batch, -math.inf))
    if after == 0 or after == len(points):
        return points[max(0, after - 1)][1]
    (low, low_value), (high, high_value) = points[after - 1], points[after]
    return low_value + (high_value - low_value) * (batch - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Profile:
    """Cost of one artifact on one kind of hardware.

    Attributes:
        points: (batch size, seconds that one such batch takes alone), by ascending size.
        load_s: seconds from starting the process to its first answer.
        memory_bytes: memory that one deployment takes.
        demand: (batch size, share of the device's scarcest resource one such batch takes, above
            0 and up to 1), by ascending size; the greater of bandwidth and SMs on a GPU,
            threads over cores on a CPU.
        sm_share: (batch size, least share of the SMs that keeps it at full speed), likewise;
            empty where a process can't be held to a share.
        colocation_penalty: extra cost of each further batch that runs beside it.
        interference: measured slowdown of each of 1, 2, ... of its batches that run together,
            from 1.0 up; empty where nothing was measured and the formula holds.
        watts: power the device draws while it is kept busy; 0 if unknown.
    """

    points: tuple[tuple[int, float], ...]
    load_s: float
    memory_bytes: int
    demand: tuple[tuple[int, float], ...] = ((1, 1.0),)
    sm_share: tuple[tuple[int, float], ...] = ()
    colocation_penalty: float = 0.05
    interference: tuple[float, ...] = ()
    watts: float = 0.0
    provenance: Provenance = Provenance.MEASURED

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise InvalidArgumentError(f"batch sizes must rise from 1 or more, not {sizes}")
        if any(not latency_s > 0 for _, latency_s in self.points):
            raise InvalidArgumentError("a batch takes more than 0 s")
        if not self.demand:
            raise InvalidArgumentError("a profile needs a demand fraction")
        for name, shares in (("demand fraction", self.demand), ("SM share", self.sm_share)):
            sizes = [size for size, _ in shares]
            if sizes != sorted(set(sizes)):
                raise InvalidArgumentError(f"the {name}'s batch sizes must rise, not {sizes}")
            for _, share in shares:
                if not 0 < share <= 1:
                    raise InvalidArgumentError(
                        f"the {name} lies above 0 and up to 1, not at {share:g}"
                    )
        if not (self.colocation_penalty >= 0 and self.watts >= 0):
            raise InvalidArgumentError("a co-location penalty or a power is never below 0")
        if any(not factor >= 1 for factor in self.interference):
            raise InvalidArgumentError("a measured slowdown is 1 or more")

    @property
    def largest_batch(self) -> int:
        """The largest batch size that was measured."""
        return self.points[-1][0]

    def stretch(self, batch: int, sm_percent: int = 100) -> float:
        """Factor by which a batch takes longer in a process held to `sm_percent` of the SMs.

        L(b, s) = L(b) max(1, sm_share(b) / s).
        """
        if sm_percent >= 100 or not self.sm_share:
            return 1.0
        return max(1.0, _between(self.sm_share, batch) * 100 / sm_percent)

    def latency_s(self, batch: int, sm_percent: int = 100) -> float:
        """Seconds one batch takes alone; see `batch_latency_s`."""
        return batch_latency_s(self.points, batch) * self.stretch(batch, sm_percent)

    def demand_fraction(self, batch: int, sm_percent: int = 100) -> float:
        """Share of the device's scarcest resource one batch takes while it runs.

        Its work, f(b) L(b), is linear in b: rows cost the same each, and what a small batch leaves
        of the device is latency that isn't work. So sizes that weren't measured lie on the line
        through those that were, up to all of the device; a single one says nothing of others. A
        batch that is held back spreads the same work over a longer time.
        """
        return self._demand_at_full_speed(batch) / self.stretch(batch, sm_percent)

    def _demand_at_full_speed(self, batch: int) -> float:
        known = self.demand
        after = bisect.bisect_left(known, (batch, -math.inf))
        if after == 0 or len(known) == 1 or (after < len(known) and known[after][0] == batch):
            return known[min(after, len(known) - 1)][1]
        (low, low_share), (high, high_share) = known[min(after, len(known) - 1) - 1 :][:2]
        low_work_s = low_share * batch_latency_s(self.points, low)
        high_work_s = high_share * batch_latency_s(self.points, high)
        work_s = low_work_s + (high_work_s - low_work_s) * (batch - low) / (high - low)
        least = min(low_share, high_share)
        return min(1.0, max(least, work_s / batch_latency_s(self.points, batch)))

    def slowdown(
        self, batches: Amount, demand: Amount, other_demand: Amount = 0.0, others: Amount = 0.0
    ) -> Amount:
        """Factor by which `batches` co-running batches of this model stretch each other.

        `demand` is what each of them takes, `other_demand` what other models' batches on the
        device take at the same time, `others` the mean number of those that run; numbers, or
        arrays that broadcast.
        """
        curve = Curve(np.array(self.interference), 0, len(self.interference))
        return slowdown(
            self.colocation_penalty,
            curve if self.interference else None,
            batches,
            demand,
            other_demand=other_demand,
            others=others,
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """Measured slowdowns of 1, 2, ... batches together: of one profile, or of many in a row.

    Attributes:
        factors: all the curves' values, one curve after the other.
        start: where a profile's curve begins in them; `length`, how many values it has, 0 if
            nothing was measured. Numbers, or arrays of them, one a profile.
    """

    factors: npt.NDArray[np.float64]
    start: Amount
    length: Amount

    def at(self, batches: Amount) -> Amount:
        """Slowdown of so many batches, linear between what was measured, level beyond."""
        below = np.floor(batches)
        first = self.start + below.astype(np.intp) - 1
        low = np.take(self.factors, first, mode="clip")
        high = np.take(self.factors, first + 1, mode="clip")
        return low + (high - low) * (batches - below)


def slowdown(
    penalty: Amount,
    curve: Curve | None,
    batches: Amount,
    demand: Amount,
    *,
    other_demand: Amount,
    others: Amount,
) -> Amount:
    """Factor by which `batches` co-running batches of one model stretch each other.

    S = max(1, F)(1 + eps(n - 1)), with F the summed demand and n the number of batches. A
    measured curve stands in for the formula; beyond its end, and for what others add, it goes
    on as the formula does. `penalty` is eps; the rest as in `Profile.slowdown`.
    """
    factor = _modelled(penalty, batches * demand + other_demand, batches + others)
    if curve is None:
        return factor
    known = np.clip(batches, 1.0, np.maximum(1.0, curve.length))
    corrected = factor * curve.at(known) / _modelled(penalty, known * demand, known)
    return np.where(curve.length, corrected, factor)


def _modelled(penalty: Amount, demand: Amount, batches: Amount) -> Amount:
    crowd: Amount = 1 + penalty * np.maximum(0.0, batches - 1)
    return np.maximum(1.0, demand) * crowd
