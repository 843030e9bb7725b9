"""A recorded trace's arrivals, bent to a wanted rate.

The trace's clock is sped up and slowed down, nothing else: its requests keep their order
and their bunching, none is left out and none invented. By the time the profile expects a
tenth of all requests, a tenth of the trace's span has gone by, whatever arrived in it.
So where the profile is constant, gaps between requests keep their ratios exactly, and
along a ramp the trace's own ups and downs ride on it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from paldia.core.errors import InvalidArgumentError

Seconds: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RateProfile:
    """A rate over time: (seconds, requests per second) points with straight lines between."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        times_s = [time_s for time_s, _ in self.points]
        if len(times_s) < 2 or times_s[0] != 0 or times_s != sorted({*times_s}):
            raise InvalidArgumentError(
                f"a rate profile needs two or more points at rising times from 0 s, not {times_s}"
            )
        if not all(math.isfinite(rate) and rate >= 0 for _, rate in self.points):
            raise InvalidArgumentError("a rate must be 0 requests per second or more")
        if self.requests <= 0:
            raise InvalidArgumentError("the rate profile asks for no requests at all")

    @classmethod
    def ramp(cls, duration_s: float, first_rps: float, last_rps: float) -> RateProfile:
        """Go from one rate to another in a straight line."""
        return cls(((0.0, first_rps), (duration_s, last_rps)))

    @property
    def duration_s(self) -> float:
        """Seconds from the first point to the last."""
        return self.points[-1][0]

    @property
    def requests(self) -> float:
        """Requests expected over the whole profile: the area under it."""
        return sum(
            (first_rps + last_rps) / 2 * (end_s - start_s)
            for (start_s, first_rps), (end_s, last_rps) in itertools.pairwise(self.points)
        )

    def time_of(self, counts: Seconds) -> Seconds:
        """Give the times, in seconds, by which so many requests are expected.

        Args:
            counts: from 0 to `requests`, in any order, as an array of any length.
        """
        times_s, rates = np.array(self.points).T
        widths_s = np.diff(times_s)
        before = np.concatenate([[0.0], np.cumsum((rates[:-1] + rates[1:]) / 2 * widths_s)])
        piece = np.clip(np.searchsorted(before, counts, side="right") - 1, 0, len(widths_s) - 1)
        slope = (np.diff(rates) / widths_s)[piece]
        rest = counts - before[piece]
        # The positive root of slope/2 x^2 + rate x = rest, in the form that bears slope 0.
        rate = rates[piece]
        divisor = rate + np.sqrt(np.maximum(rate**2 + 2 * slope * rest, 0))
        within_s = np.divide(2 * rest, divisor, out=np.zeros_like(rest), where=divisor > 0)
        times: Seconds = times_s[piece] + np.minimum(within_s, widths_s[piece])
        return times


def warp(arrivals_s: Seconds, profile: RateProfile) -> Seconds:
    """Bend the first arrivals of a trace to a rate profile; give offsets to send at, in seconds.

    As many arrivals are taken as the profile asks for, and one more that ends their span.

    Raises:
        InvalidArgumentError: the trace is too short for the profile, or all at one instant.
    """
    count = max(1, round(profile.requests))
    if len(arrivals_s) <= count:
        raise InvalidArgumentError(
            f"the profile asks for {count} requests and the trace has only {len(arrivals_s)}, "
            "one of which ends the span; ask for a lower rate or a shorter time"
        )
    span_s = arrivals_s[count] - arrivals_s[0]
    if span_s <= 0:
        raise InvalidArgumentError("the trace's arrivals all have the same time")
    gone = (arrivals_s[:count] - arrivals_s[0]) / span_s
    return profile.time_of(gone * profile.requests)
