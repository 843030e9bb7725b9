"""A trace: when requests come. It can be sped up, cut, and given more or less load.

Each of these gives a new trace and means the trace as it is by then: `faster(60).part(0, 600)`
is the first ten hours, gone by in ten minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from paldia.core.errors import InvalidArgumentError
from paldia.sim.scenario import Times
from paldia.sim.trace_sources import Source

PEAK_WIDTH_S = 10.0
"""A trace's peak is its highest mean rate over so many seconds of simulated time.

Shorter rushes can be queued for a moment; over a longer time one overload would hide behind the
calm around it.
"""
FACTOR_LIMIT = 1e6


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals of a source, bent; the same each time that they are asked for.

    Attributes:
        name: for reports.
        speed: seconds of the source's time that go by in one.
        factor: requests for each recorded one.
        from_s, until_s: the part that is taken, in the source's time.
    """

    name: str
    source: Source
    seed: int = 0
    speed: float = 1.0
    factor: float = 1.0
    from_s: float = 0.0
    until_s: float = math.inf

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the end of the trace."""
        return (self._end_s - self.from_s) / self.speed

    @property
    def _end_s(self) -> float:
        return min(self.until_s, self.source.length_s)

    def chunks(self) -> Iterator[Times]:
        """Give arrival times in seconds from the start, ascending, some thousands at a time."""
        for times in self.source.arrivals(self.seed, self.factor, self.from_s, self._end_s):
            yield (times - self.from_s) / self.speed

    def faster(self, speed: float) -> Trace:
        """Let time go by `speed` times as fast; the rate rises with it.

        Raises:
            InvalidArgumentError: the speed isn't above 0.
        """
        if not 0 < speed < math.inf:
            raise InvalidArgumentError(f"a trace's speed must be above 0, not {speed:g}")
        return replace(self, speed=self.speed * speed)

    def part(self, start_s: float, length_s: float = math.inf) -> Trace:
        """Take `length_s` seconds from `start_s` on, or what there is of them.

        Raises:
            InvalidArgumentError: it would hold nothing.
        """
        if not (0 <= start_s < self.duration_s and length_s > 0):
            raise InvalidArgumentError(
                f"{self.name} lasts {self.duration_s:.6g} s at this speed; a part of it that "
                f"starts at {start_s:g} s and lasts {length_s:g} s holds nothing"
            )
        from_s = self.from_s + start_s * self.speed
        return replace(
            self, from_s=from_s, until_s=min(self._end_s, from_s + length_s * self.speed)
        )

    def before(self, length_s: float) -> Trace | None:
        """Give the up to `length_s` seconds that came before it; None if nothing did."""
        from_s = max(0.0, self.from_s - length_s * self.speed)
        return replace(self, from_s=from_s, until_s=self.from_s) if from_s < self.from_s else None

    def scaled(self, factor: float) -> Trace:
        """Let `factor` times as many requests come.

        Raises:
            InvalidArgumentError: the factor isn't above 0, or the product of all is out of bounds.
        """
        product = self.factor * factor
        if not 0 < product <= FACTOR_LIMIT:
            raise InvalidArgumentError(
                f"{self.name} can have up to {FACTOR_LIMIT:g} times its requests, "
                f"and more than none; not {product:g} times"
            )
        return replace(self, factor=product)

    def scaled_to(self, peak_rps: float, width_s: float = PEAK_WIDTH_S) -> Trace:
        """Scale it so that its peak is `peak_rps` requests per second.

        Raises:
            InvalidArgumentError: there are no requests in it, or the peak isn't above 0.
        """
        present_rps = self.peak_rps(width_s)
        if present_rps == 0:
            raise InvalidArgumentError(
                f"no request comes in this part of {self.name}, so it can't be scaled; "
                "take another part, or all of it"
            )
        return self.scaled(peak_rps / present_rps)

    def peak_rps(self, width_s: float = PEAK_WIDTH_S) -> float:
        """Highest mean rate, per second, over spans of `width_s` one after another."""
        width_s = min(width_s, self.duration_s)
        busiest = self.source.busiest(width_s * self.speed, self.from_s, self._end_s)
        return busiest * self.speed * self.factor

    def share(self, index: int, of: int) -> Trace:
        """Give each of `of` models an equal share: of each request, a chance of one in `of`."""
        if of == 1:
            return self
        (seed,) = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)
        return replace(self.scaled(1 / of), seed=int(seed))
