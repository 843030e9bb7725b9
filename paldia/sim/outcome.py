"""What a run gives: figures of fixed size, however long the trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """One model's figures.

    Attributes:
        requests: all that were offered; refused, failed and unanswered ones count as missed.
        in_slo: those that were answered within the SLO.
        latency_edges_s: bounds of the histogram's bins, one more than bins, ascending.
        latency_counts: answers by latency, from arrival to answer.
        tail_*_s: over the slowest 1 % of answers, the mean seconds spent waiting for a lane
            (`queue`), slowed by co-runners (`interference`), in the batch's own execution, as
            if alone (`execution`), and waiting while nothing was loaded (`cold`).
        *_s: the same over all answers.
    """

    name: str
    requests: int
    answered: int
    in_slo: int
    refused: int
    failed: int
    latency_edges_s: npt.NDArray[np.float64]
    latency_counts: npt.NDArray[np.int64]
    queue_s: float
    interference_s: float
    execution_s: float
    cold_s: float
    tail_queue_s: float
    tail_interference_s: float
    tail_execution_s: float
    tail_cold_s: float

    @property
    def slo_compliance(self) -> float:
        """Answers within the SLO over all requests offered; 1 without requests."""
        return self.in_slo / self.requests if self.requests else 1.0

    def latency_s(self, quantile: float) -> float:
        """Latency that `quantile` of the answers don't exceed, to a bin's width; 0 without."""
        if not self.answered:
            return 0.0
        reached = np.searchsorted(np.cumsum(self.latency_counts), quantile * self.answered)
        return float(self.latency_edges_s[min(int(reached) + 1, len(self.latency_counts))])


@dataclass(frozen=True, slots=True)
class Timeline:
    """The run by intervals of equal length; every array has one row an interval.

    Attributes:
        offered: requests that arrived; `in_slo` those of them answered within the SLO.
        nodes: mean number of nodes that are paid for, by kind of hardware.
        usd_per_hour: what is paid for.
    """

    interval_s: float
    offered: npt.NDArray[np.int64]
    in_slo: npt.NDArray[np.int64]
    nodes: dict[str, npt.NDArray[np.float64]]
    usd_per_hour: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run of one policy over one scenario.

    Attributes:
        cost_usd: of all nodes, from activation to release, within the scenario's duration.
        node_hours: likewise.
        switches: changes of the set of places that a model serves from, after its first.
        energy_joules: estimated where power is known.
        cpu_s: processor seconds the run took; the only figure that isn't reproducible.
    """

    policy: str
    duration_s: float
    models: tuple[ModelOutcome, ...]
    timeline: Timeline
    cost_usd: float
    node_hours: float
    switches: int
    energy_joules: float
    cpu_s: float
