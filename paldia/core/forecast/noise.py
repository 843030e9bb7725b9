"""What chance alone does: the highest of several seconds of arrivals around a steady rate.

The arrivals of a second are taken as normal with variance `rate * dispersion`, and seconds as
independent of each other.
"""

from __future__ import annotations

import math
from functools import lru_cache

from paldia.core.errors import InvalidArgumentError

_BOUND = 9.0
"""Deviations beyond which the normal distribution is 0 or 1 in double precision."""


def check(horizon_s: float, quantile: float) -> None:
    """Refuse a question that has no answer.

    Raises:
        InvalidArgumentError: the horizon is not above 0 s, or the quantile not between 0 and 1.
    """
    if not 0 < horizon_s < math.inf:
        raise InvalidArgumentError(f"a horizon must be above 0 s and finite, not {horizon_s:g} s")
    if not 0 < quantile < 1:
        raise InvalidArgumentError(f"a quantile must lie between 0 and 1, not {quantile:g}")


def normal_probability(deviations: float) -> float:
    """Give the standard normal distribution function."""
    return math.erfc(-deviations / math.sqrt(2)) / 2


@lru_cache(maxsize=4096)
def normal_quantile(probability: float) -> float:
    """Invert `normal_probability` by halving, to the last digits of a double."""
    low, high = -_BOUND, _BOUND
    for _ in range(56):
        middle = (low + high) / 2
        if normal_probability(middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def stays_below(value: float, rate: float, deviation: float, seconds: float) -> float:
    """Probability that none of `seconds` one-second rates exceeds `value`.

    `deviation` is the standard deviation of a one-second rate, in requests/s.
    """
    if deviation <= 0:
        return 1.0 if value >= rate else 0.0
    return float(normal_probability((value - rate) / deviation) ** seconds)


def highest(rate: float, deviation: float, seconds: float, quantile: float) -> float:
    """Rate that the highest of `seconds` one-second rates stays below with that probability.

    The inverse of `stays_below`, and never below 0.
    """
    return max(0.0, rate + deviation * normal_quantile(quantile ** (1 / seconds)))
