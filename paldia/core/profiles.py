"""What is known of a model on a kind of hardware, and how batches slow each other."""

from __future__ import annotations

import bisect
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from paldia.core.errors import InvalidArgumentError


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


@dataclass(frozen=True, slots=True)
class Profile:
    """Cost of one artifact on one kind of hardware.

    Attributes:
        points: (batch size, seconds that one such batch takes alone), by ascending size.
        load_s: seconds from starting the process to its first answer.
        memory_bytes: memory that one deployment takes.
        demand_fraction: share of the device's scarcest resource one batch takes, 0 to 1.
        colocation_penalty: extra cost of each further batch that runs beside it.
    """

    points: tuple[tuple[int, float], ...]
    load_s: float
    memory_bytes: int
    demand_fraction: float = 1.0
    colocation_penalty: float = 0.05
    provenance: Provenance = Provenance.MEASURED

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise InvalidArgumentError(f"batch sizes must rise from 1 or more, not {sizes}")
        if any(latency_s <= 0 for _, latency_s in self.points):
            raise InvalidArgumentError("a batch takes more than 0 s")
        if not 0 < self.demand_fraction <= 1:
            raise InvalidArgumentError(
                f"the demand fraction lies above 0 and up to 1, not {self.demand_fraction:g}"
            )

    @property
    def largest_batch(self) -> int:
        """The largest batch size that was measured."""
        return self.points[-1][0]

    def latency_s(self, batch: int) -> float:
        """Seconds one batch takes alone; see `batch_latency_s`."""
        return batch_latency_s(self.points, batch)

    def slowdown(self, batches: float, other_demand: float = 0.0, others: float = 0.0) -> float:
        """Factor by which `batches` co-running batches of this model stretch each other.

        `other_demand` is the demand that other models put on the device at the same time,
        `others` the mean number of their batches that run. S = max(1, F)(1 + eps(n - 1)),
        with F the summed demand and n the number of batches.
        """
        demand = batches * self.demand_fraction + other_demand
        crowd = max(0.0, batches + others - 1)
        return max(1.0, demand) * (1 + self.colocation_penalty * crowd)
