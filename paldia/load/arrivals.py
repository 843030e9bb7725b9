"""When to send: at a rate, by chance or evenly, or when a trace's requests came."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from paldia.core.errors import InvalidArgumentError
from paldia.load.warp import Seconds
from paldia.sim.trace import Trace
from paldia.sim.trace_files import open_trace

REQUESTS_MOST = 20_000_000
"""Most requests of one run: their times are held in memory."""


def poisson(rate_rps: float, length_s: float, seed: int) -> Seconds:
    """Give the arrivals of a Poisson process: independent users.

    Given their number, they are that many independent moments.

    Raises:
        InvalidArgumentError: the rate or the length isn't above 0, or there would be too many.
    """
    dice = np.random.default_rng(seed)
    count = int(dice.poisson(_expected(rate_rps, length_s)))
    return np.sort(dice.random(count)) * length_s


def uniform(rate_rps: float, length_s: float) -> Seconds:
    """Give arrivals at equal distances, the first at 0.

    Raises:
        InvalidArgumentError: as for `poisson`.
    """
    return np.arange(math.ceil(_expected(rate_rps, length_s))) / rate_rps


def _expected(rate_rps: float, length_s: float) -> float:
    for what, value in (("rate", rate_rps), ("duration", length_s)):
        if not 0 < value < math.inf:
            raise InvalidArgumentError(f"the {what} must be above 0, not {value:g}")
    if rate_rps * length_s > REQUESTS_MOST:
        raise InvalidArgumentError(
            f"{rate_rps:g} requests a second for {length_s:g} s are {rate_rps * length_s:,.0f}; "
            f"at most {REQUESTS_MOST:,} can be sent in one run"
        )
    return rate_rps * length_s


def recorded(trace: Trace) -> Seconds:
    """Give all arrivals of a trace, from its start on.

    Raises:
        InvalidArgumentError: there are none, or too many, or the file is wrong.
    """
    arrivals_s: Seconds = np.concatenate([np.empty(0), *_limited(trace)])
    if len(arrivals_s) == 0:
        raise InvalidArgumentError(
            f"no request comes in this part of {trace.name}; take a longer one, or scale it up"
        )
    return arrivals_s


def _limited(trace: Trace) -> Iterator[Seconds]:
    count = 0
    for chunk in trace.chunks():
        count += len(chunk)
        if count > REQUESTS_MOST:
            raise InvalidArgumentError(
                f"{trace.name} holds more than {REQUESTS_MOST:,} requests; take a shorter part"
            )
        yield chunk


def read_arrivals(spec: str) -> Seconds:
    """Read all arrivals of a trace that `paldia simulate` reads, in seconds from its start."""
    return recorded(open_trace(spec))
