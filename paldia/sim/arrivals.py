"""A model's requests, taken from its trace some thousands at a time; and a look ahead."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import islice

import numpy as np

from paldia.core.errors import InvalidArgumentError
from paldia.sim.measure import ModelMeter
from paldia.sim.scenario import Arrivals, Times


def _within(arrivals: Arrivals, duration_s: float) -> Iterator[Times]:
    """Give the chunks up to the end of the scenario.

    Raises:
        InvalidArgumentError: the arrivals don't come in order of time.
    """
    last_s = 0.0
    for chunk in arrivals.chunks():
        if len(chunk) == 0:
            continue
        if chunk[0] < last_s or np.any(np.diff(chunk) < 0):
            raise InvalidArgumentError(
                f"arrivals must come in order of time from 0 s on; those about {last_s:.3f} s don't"
            )
        last_s = float(chunk[-1])
        if last_s < duration_s:
            yield chunk
            continue
        rest = chunk[: np.searchsorted(chunk, duration_s)]
        if len(rest):
            yield rest
        return


class Feed:
    """A model's arrivals in order, each given out once.

    Attributes:
        next_s: when the next one comes; infinity after the last.
    """

    __slots__ = ("_chunks", "_meter", "_position", "_times", "next_s")

    def __init__(self, arrivals: Arrivals, duration_s: float, meter: ModelMeter) -> None:
        self._chunks = _within(arrivals, duration_s)
        self._meter = meter
        # With infinity at the end, so that there is always a next one.
        self._times: tuple[float, ...] = (math.inf,)
        self._position = 0
        self.next_s = -math.inf
        self._refill()

    def until(self, now_s: float) -> tuple[float, ...]:
        """Take the arrivals up to and including `now_s`, which lies below infinity."""
        taken: tuple[float, ...] = ()
        while self.next_s <= now_s:
            first, times = self._position, self._times
            end = self._position = bisect_right(times, now_s, first)
            taken = taken + times[first:end] if taken else times[first:end]
            self.next_s = times[end]
            if self.next_s == math.inf:
                self._refill()
        return taken

    def _refill(self) -> None:
        self._position = 0
        for chunk in self._chunks:
            self._meter.note_offered(chunk)
            self._times = (*chunk.tolist(), math.inf)
            self.next_s = self._times[0]
            return
        self._times = (math.inf,)
        self.next_s = math.inf


class LookAhead:
    """The arrivals of the time to come, counted by seconds, from a reading of its own."""

    def __init__(self, arrivals: Arrivals, duration_s: float) -> None:
        self._chunks = _within(arrivals, duration_s)
        self._counts: deque[int] = deque()
        self._first_second = 0
        self._read_until_s = 0.0

    def peak_per_second(self, from_s: float, until_s: float) -> float:
        """Give the most arrivals in any second that overlaps a span; spans never go back."""
        while self._read_until_s < until_s:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._read_until_s = math.inf
                break
            self._take(chunk)
        while self._counts and self._first_second < math.floor(from_s):
            self._counts.popleft()
            self._first_second += 1
        if not self._counts:
            self._first_second = max(self._first_second, math.floor(from_s))
        seconds = math.ceil(until_s) - self._first_second
        return float(max(islice(self._counts, max(0, seconds)), default=0))

    def _take(self, chunk: Times) -> None:
        self._read_until_s = float(chunk[-1])
        seconds = chunk.astype(np.int64) - self._first_second
        counts = np.bincount(seconds[seconds >= 0]).tolist()
        known = len(self._counts)
        for second, count in enumerate(counts[:known]):
            self._counts[second] += count
        self._counts.extend(counts[known:])


class History:
    """What came before a trace began, counted by seconds."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._length_s = math.floor(arrivals.duration_s)
        counts = np.zeros(self._length_s, dtype=np.int64)
        late_s = arrivals.duration_s - self._length_s
        for chunk in arrivals.chunks():
            seconds = np.floor(chunk - late_s).astype(np.int64)
            known = seconds[(seconds >= 0) & (seconds < self._length_s)]
            counts += np.bincount(known, minlength=self._length_s)
        self._counts = counts

    def before(self, until_s: float) -> Iterator[tuple[float, int]]:
        """Give the seconds that end by `until_s`, at most 0: when each ends, and its count."""
        for index in range(max(0, self._length_s + math.floor(until_s))):
            yield index + 1.0 - self._length_s, int(self._counts[index])

    def rate(self, from_s: float, until_s: float) -> float:
        """Requests per second over whole seconds about a span before 0; 0 before all."""
        first = max(0, self._length_s + math.floor(from_s))
        last = max(first + 1, self._length_s + math.floor(until_s))
        counts = self._counts[first:last]
        return float(counts.mean()) if len(counts) else 0.0


def mean_rate(arrivals: Arrivals, duration_s: float) -> float:
    """Requests per second from the start, over `duration_s` seconds."""
    count = sum(len(chunk) for chunk in _within(arrivals, duration_s))
    return count / duration_s if duration_s > 0 else 0.0
