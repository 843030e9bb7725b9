"""Counts outcomes as they come, in little memory: histograms, and a row for each second.

Times count from the end of the warm-up; what was meant to be sent before is in the rows alone.
A request belongs to the second in which it was meant to be sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from paldia.load.outcomes import ANSWERED, CODES, NUMBER_OF_CODE, REFUSED, Columns

_MOST_US = 3_600_000_000
_DIGITS = 3
_ANSWERED, _REFUSED = NUMBER_OF_CODE[ANSWERED], NUMBER_OF_CODE[REFUSED]


class Histogram:
    """Times from a microsecond to an hour, right to 0.1 %."""

    def __init__(self) -> None:
        self.recorded = HdrHistogram(1, _MOST_US, _DIGITS)
        self.most_s = 0.0
        self._sum_s = 0.0

    def add(self, times_s: NDArray[np.float64]) -> None:
        """Count times, in seconds."""
        if len(times_s) == 0:
            return
        micros = np.clip(np.rint(times_s * 1e6), 1, _MOST_US).astype(np.int64)
        for value, count in zip(*(it.tolist() for it in _counted(micros)), strict=True):
            self.recorded.record_value(value, count)
        self.most_s = max(self.most_s, float(times_s.max()))
        self._sum_s += float(times_s.sum())

    @property
    def count(self) -> int:
        """Times counted."""
        return int(self.recorded.get_total_count())

    def mean_s(self) -> float | None:
        """Mean in seconds; None if nothing was counted."""
        return self._sum_s / self.count if self.count else None

    def percentile_s(self, percent: float) -> float | None:
        """Seconds that so many of 100 stay within; None if nothing was counted."""
        if not self.count:
            return None
        return float(self.recorded.get_value_at_percentile(percent)) / 1e6


def _counted(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found, counts = np.unique(values, return_counts=True)
    return found, counts.astype(np.int64)


@dataclass(slots=True)
class Second:
    """The requests that were meant to be sent within one second; latencies are of answers."""

    offered: int = 0
    refused: int = 0
    in_slo: int = 0
    latencies_s: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Those that were answered."""
        return sum(map(len, self.latencies_s))

    def percentile_s(self, percent: float) -> float | None:
        """Seconds that so many of 100 answers stay within; None without any."""
        if not self.latencies_s:
            return None
        return float(np.percentile(np.concatenate(self.latencies_s), percent))


@dataclass(frozen=True, slots=True)
class Window:
    """What became known since the last look; failed is all that is neither answer nor refusal."""

    answered: int
    refused: int
    failed: int
    p50_s: float | None
    p99_s: float | None
    lag_s: float


class Tally:
    """Outcomes counted, against an SLO if there is one."""

    def __init__(self, slo_s: float | None, warmup_s: float = 0.0) -> None:
        self._slo_s = slo_s
        self._warmup_s = warmup_s
        self._recent: list[Columns] = []
        self._done: Counter[int] = Counter()
        self._codes = np.zeros(len(CODES), np.int64)
        self.seconds: dict[int, Second] = {}
        self.latencies = Histogram()
        self.refusals = Histogram()
        self.lags = Histogram()
        self.in_slo = 0

    @property
    def offered(self) -> int:
        """Requests that were meant to be sent after the warm-up."""
        return int(self._codes.sum())

    @property
    def by_code(self) -> Mapping[str, int]:
        """How many came to which end; those that none came to are left out."""
        counts = self._codes.tolist()
        return {code: count for code, count in zip(CODES, counts, strict=True) if count}

    def answers_done(self, seconds: int) -> int:
        """Answers that came within so many seconds after the warm-up, whenever asked for."""
        return sum(count for second, count in self._done.items() if 0 <= second < seconds)

    def add(self, columns: Columns) -> None:
        """Count outcomes, whose times are from the start of the warm-up."""
        if len(columns) == 0:
            return
        self._recent.append(columns)
        is_answer = columns.code == _ANSWERED
        is_refusal = columns.code == _REFUSED
        latency_s = columns.latency_s
        is_in_slo = is_answer & (latency_s <= (np.inf if self._slo_s is None else self._slo_s))
        second = np.floor(columns.intended_s - self._warmup_s).astype(np.int64)
        for number in np.unique(second).tolist():
            here = second == number
            row = self.seconds.setdefault(number, Second())
            row.offered += int(here.sum())
            row.refused += int((here & is_refusal).sum())
            row.in_slo += int((here & is_in_slo).sum())
            if (answers := latency_s[here & is_answer]).size:
                row.latencies_s.append(answers.astype(np.float32))
        done = np.floor(columns.done_s[is_answer] - self._warmup_s).astype(np.int64)
        self._done.update(dict(zip(*(it.tolist() for it in _counted(done)), strict=True)))
        counts = second >= 0
        self._codes += np.bincount(columns.code[counts], minlength=len(CODES))
        self.in_slo += int((is_in_slo & counts).sum())
        self.latencies.add(latency_s[is_answer & counts])
        self.refusals.add(latency_s[is_refusal & counts])
        self.lags.add(columns.lag_s[counts])

    def window(self) -> Window:
        """Sum up what came since the last time."""
        recent, self._recent = self._recent, []
        if not recent:
            return Window(0, 0, 0, None, None, 0.0)
        codes = np.concatenate([it.code for it in recent])
        latency_s = np.concatenate([it.latency_s for it in recent])[codes == _ANSWERED]
        answered, refused = len(latency_s), int((codes == _REFUSED).sum())
        p50_s, p99_s = np.percentile(latency_s, (50, 99)).tolist() if answered else (None, None)
        lag_s = max(float(it.lag_s.max()) for it in recent)
        return Window(answered, refused, len(codes) - answered - refused, p50_s, p99_s, lag_s)
