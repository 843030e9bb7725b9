"""Where arrivals come from: counts per interval, single requests, or a constant rate.

One rule for more or less load holds for all: under a factor of 2.3 each recorded request
stands for two, and with a chance of 0.3 for a third; under 0.3 it stays with a chance of 0.3.
So bunches grow or shrink with the rest, and a factor of 1 gives exactly what was recorded.

Chance is drawn anew for each interval or block, from the seed and its index: what comes at
one time doesn't depend on where reading began, and reading again gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paldia.sim.scenario import Times

CHUNK = 4096
"""Arrivals made at once."""
_STEADY_SPAN_S = 16.0
JITTER_LIMIT_S = 1.0
"""Furthest that a request's doubles come after it."""


class Source(Protocol):
    """Arrivals in the trace's own time, from 0 to `length_s`."""

    @property
    def length_s(self) -> float:
        """Seconds from the first arrival, or the first interval's start, to the end."""

    def arrivals(self, seed: int, factor: float, from_s: float, until_s: float) -> Iterator[Times]:
        """Give those from `from_s` to before `until_s`, ascending, `factor` times as many."""

    def busiest(self, width_s: float, from_s: float, until_s: float) -> float:
        """Highest mean rate per second in any of the spans of `width_s` one after another."""


def _number(recorded: int, factor: float, dice: np.random.Generator) -> int:
    """How many requests so many recorded ones stand for."""
    whole = math.floor(factor)
    return recorded * whole + int(dice.binomial(recorded, factor - whole))


def _spread(number: int, dice: np.random.Generator) -> Iterator[Times]:
    """Give so many independent moments between 0 and 1, ascending, in pieces.

    How many of them fall into each piece is drawn as it falls out for all at once.
    """
    pieces = max(1, math.ceil(number / CHUNK))
    left = number
    for piece in range(pieces):
        here = int(dice.binomial(left, 1 / (pieces - piece)))
        left -= here
        yield (piece + np.sort(dice.random(here))) / pieces


def _between(times: Times, from_s: float, until_s: float) -> Times:
    first, last = np.searchsorted(times, (from_s, until_s))
    return times[first:last]


def _gathered(pieces: Iterator[Times]) -> Iterator[Times]:
    """Put small pieces together, so that quiet intervals don't make for tiny chunks."""
    kept: list[Times] = []
    size = 0
    for piece in pieces:
        if len(piece) == 0:
            continue
        kept.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield np.concatenate(kept)
            kept, size = [], 0
    if kept:
        yield np.concatenate(kept)


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Requests per interval; within it they come as a Poisson process whose count is known.

    Attributes:
        counts: whole numbers, one an interval, none left out.
    """

    counts: npt.NDArray[np.int64]
    interval_s: float

    @property
    def length_s(self) -> float:
        """Intervals times their length."""
        return len(self.counts) * self.interval_s

    def arrivals(self, seed: int, factor: float, from_s: float, until_s: float) -> Iterator[Times]:
        """See `Source`."""
        return _gathered(
            _between(times, from_s, until_s)
            for index in self._busy(from_s, until_s)
            for times in self._within(index, factor, seed)
        )

    def _busy(self, from_s: float, until_s: float) -> Iterator[int]:
        first = math.floor(from_s / self.interval_s)
        last = math.ceil(until_s / self.interval_s)
        yield from (first + np.flatnonzero(self.counts[first:last])).tolist()

    def _within(self, index: int, factor: float, seed: int) -> Iterator[Times]:
        dice = np.random.default_rng((seed, index))
        number = _number(int(self.counts[index]), factor, dice)
        return ((index + part) * self.interval_s for part in _spread(number, dice))

    def busiest(self, width_s: float, from_s: float, until_s: float) -> float:
        """See `Source`; by the counts, without the chance within intervals."""
        if width_s <= self.interval_s:
            first, last = math.floor(from_s / self.interval_s), math.ceil(until_s / self.interval_s)
            return float(np.max(self.counts[first:last])) / self.interval_s
        edges = np.append(np.arange(from_s, until_s, width_s), until_s)
        at = np.arange(len(self.counts) + 1) * self.interval_s
        seen = np.interp(edges, at, np.concatenate(([0], np.cumsum(self.counts))))
        return float(np.max(np.diff(seen))) / width_s


@dataclass(frozen=True, slots=True)
class Steady:
    """A Poisson process of constant rate."""

    requests_per_second: float
    length_s: float

    def arrivals(self, seed: int, factor: float, from_s: float, until_s: float) -> Iterator[Times]:
        """See `Source`."""
        first, last = math.floor(from_s / _STEADY_SPAN_S), math.ceil(until_s / _STEADY_SPAN_S)
        return _gathered(
            _between((span + part) * _STEADY_SPAN_S, from_s, until_s)
            for span in range(first, last)
            for part in self._within(span, factor, seed)
        )

    def _within(self, span: int, factor: float, seed: int) -> Iterator[Times]:
        dice = np.random.default_rng((seed, span))
        expected = self.requests_per_second * factor * _STEADY_SPAN_S
        return _spread(int(dice.poisson(expected)), dice)

    def busiest(self, width_s: float, from_s: float, until_s: float) -> float:
        """See `Source`; without the chance."""
        return self.requests_per_second


@dataclass(frozen=True, slots=True)
class Recorded:
    """Single requests, each with its time.

    Attributes:
        blocks: gives their times from 0 on, ascending, some thousands at a time, each time anew.
        length_s: beyond the last of them.
    """

    blocks: Callable[[], Iterator[Times]]
    length_s: float

    def arrivals(self, seed: int, factor: float, from_s: float, until_s: float) -> Iterator[Times]:
        """See `Source`.

        Doubles come at random between their request and the next one, at most JITTER_LIMIT_S
        later, so the order of requests stays and silence stays silent.
        """
        return _gathered(
            _between(times, from_s, until_s)
            for times in self._multiplied(seed, factor, from_s, until_s)
        )

    def _multiplied(
        self, seed: int, factor: float, from_s: float, until_s: float
    ) -> Iterator[Times]:
        for index, (times, next_s) in enumerate(self._with_next()):
            if times[0] >= until_s:
                return
            if next_s <= from_s:
                continue
            if factor == 1:
                yield times
                continue
            dice = np.random.default_rng((seed, index))
            gaps_s = np.diff(times, append=next_s)
            at_once = max(1, int(CHUNK / max(factor, 1.0)))
            for first in range(0, len(times), at_once):
                some = slice(first, first + at_once)
                yield _doubled(times[some], gaps_s[some], factor, dice)

    def _with_next(self) -> Iterator[tuple[Times, float]]:
        """Give each block with the time of the arrival after it."""
        block: Times | None = None
        for following in self.blocks():
            if block is not None:
                yield block, float(following[0])
            block = following
        if block is not None:
            yield block, self.length_s

    def busiest(self, width_s: float, from_s: float, until_s: float) -> float:
        """See `Source`."""
        most = count = 0
        span = -1
        for block in self.blocks():
            times = _between(block, from_s, until_s)
            spans, counts = np.unique((times - from_s) // width_s, return_counts=True)
            for here, number in zip(spans.tolist(), counts.tolist(), strict=True):
                count = count + number if here == span else number
                span, most = here, max(most, count)
        return most / width_s


def _doubled(times: Times, gaps_s: Times, factor: float, dice: np.random.Generator) -> Times:
    whole = math.floor(factor)
    numbers = whole + (dice.random(len(times)) < factor - whole)
    later_s = dice.random(int(numbers.sum())) * np.repeat(
        np.minimum(gaps_s, JITTER_LIMIT_S), numbers
    )
    later_s[(np.cumsum(numbers) - numbers)[numbers > 0]] = 0.0
    doubled: Times = np.repeat(times, numbers) + later_s
    doubled.sort()
    return doubled
