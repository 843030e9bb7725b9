"""What becomes of requests: counted by bins, so that a long trace takes no more memory.

Answers are noted batch by batch into plain lists, and some thousands at a time worked into
histograms, which costs a tenth of a microsecond a request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from paldia.sim.outcome import ModelOutcome

Floats = npt.NDArray[np.float64]

BIN_RATIO = 1.01
"""Each bin's upper bound over its lower one: quantiles are right to 1 %."""
SHORTEST_S = 1e-5
LONGEST_S = 1e5
TAIL_SHARE = 0.01
BUFFERED_REQUESTS = 1 << 14

_BINS = math.ceil(math.log(LONGEST_S / SHORTEST_S) / math.log(BIN_RATIO))
_PER_LOG = 1 / math.log(BIN_RATIO)
_PARTS = 4


def latency_edges_s() -> Floats:
    """Give the bounds of the bins; what lies beyond them counts in the outermost ones."""
    edges: Floats = SHORTEST_S * BIN_RATIO ** np.arange(_BINS + 1)
    return edges


class ModelMeter:
    """One model's requests.

    Of each answer's latency the seconds in the batch's own execution, those lost to co-runners
    and those without any lane are known; the rest was spent waiting for a lane.
    """

    def __init__(self, slo_s: float, intervals: int, interval_s: float) -> None:
        self.offered = np.zeros(intervals, np.int64)
        self.in_slo = np.zeros(intervals, np.int64)
        self.refused = 0
        self.failed = 0
        self._slo_s = slo_s
        self._interval_s = interval_s
        self._counts = np.zeros(_BINS, np.int64)
        # Rows: queue, interference, execution, cold.
        self._seconds = np.zeros((_PARTS, _BINS))
        self._start_afresh()

    def _start_afresh(self) -> None:
        # When its requests came, when it started and was done, and the seconds it takes alone.
        self._batches: list[tuple[Sequence[float], float, float, float]] = []
        self._buffered = 0
        self._cold: list[tuple[int, Floats]] = []

    def note_offered(self, arrivals_s: Floats) -> None:
        """Count requests in by the time of their arrival."""
        self.offered += self._by_interval(arrivals_s)

    def note_batch(
        self,
        arrivals_s: Sequence[float],
        start_s: float,
        done_s: float,
        work_s: float,
        cold_s: Floats | None = None,
    ) -> None:
        """Note a batch that was answered.

        Args:
            work_s: seconds that it would have taken alone.
            cold_s: for each of its requests the seconds it waited while there was no lane.
        """
        if cold_s is not None:
            self._cold.append((self._buffered, cold_s))
        self._batches.append((arrivals_s, start_s, done_s, work_s))
        self._buffered += len(arrivals_s)
        if self._buffered >= BUFFERED_REQUESTS:
            self._flush()

    def _flush(self) -> None:
        if not self._batches:
            return
        arrivals, starts_s, dones_s, works_s = zip(*self._batches, strict=True)
        sizes = np.fromiter(map(len, arrivals), np.int64, len(arrivals))
        arrivals_s = np.fromiter(chain.from_iterable(arrivals), np.float64, self._buffered)
        done_s, execution_s = np.repeat(dones_s, sizes), np.repeat(works_s, sizes)
        slowed_s = np.repeat(np.subtract(dones_s, starts_s) - works_s, sizes)
        interference_s = np.maximum(slowed_s, 0.0)
        cold_s = np.zeros_like(arrivals_s)
        for first, seconds in self._cold:
            cold_s[first : first + len(seconds)] = seconds
        latency_s = done_s - arrivals_s
        queue_s = np.maximum(latency_s - execution_s - interference_s - cold_s, 0.0)
        bins = np.clip(
            np.log(np.maximum(latency_s, SHORTEST_S) / SHORTEST_S) * _PER_LOG, 0, _BINS - 1
        ).astype(np.int64)
        self._counts += np.bincount(bins, minlength=_BINS)
        for part, seconds in enumerate((queue_s, interference_s, execution_s, cold_s)):
            self._seconds[part] += np.bincount(bins, seconds, _BINS)
        self.in_slo += self._by_interval(arrivals_s[latency_s <= self._slo_s])
        self._start_afresh()

    def _by_interval(self, arrivals_s: Floats) -> npt.NDArray[np.int64]:
        last = len(self.offered) - 1
        rows = np.clip(arrivals_s / self._interval_s, 0, last).astype(np.int64)
        return np.bincount(rows, minlength=last + 1)

    def outcome(self, name: str) -> ModelOutcome:
        """Give the figures."""
        self._flush()
        answered = int(self._counts.sum())
        mean = self._seconds.sum(axis=1) / max(1, answered)
        tail = self._tail_mean(answered)
        return ModelOutcome(
            name=name,
            requests=int(self.offered.sum()),
            answered=answered,
            in_slo=int(self.in_slo.sum()),
            refused=self.refused,
            failed=self.failed,
            latency_edges_s=latency_edges_s(),
            latency_counts=self._counts.copy(),
            queue_s=float(mean[0]),
            interference_s=float(mean[1]),
            execution_s=float(mean[2]),
            cold_s=float(mean[3]),
            tail_queue_s=float(tail[0]),
            tail_interference_s=float(tail[1]),
            tail_execution_s=float(tail[2]),
            tail_cold_s=float(tail[3]),
        )

    def _tail_mean(self, answered: int) -> Floats:
        """Mean of each part over the slowest answers; the bin that the share ends in, in part."""
        wanted = max(1, math.ceil(answered * TAIL_SHARE))
        counts = self._counts[::-1]
        taken = np.clip(wanted - (np.cumsum(counts) - counts), 0, counts)
        shares = taken / np.maximum(counts, 1)
        mean: Floats = self._seconds[:, ::-1] @ shares / wanted
        return mean
