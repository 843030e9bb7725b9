"""What one overload comes to: goodput, refusals, the slowest answers, and the recovery. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BIN_S = 0.5
NORMAL = 1.5
"""A half second is normal if nobody in it is turned away, and its median answer takes no longer
than so many times the median where capacity is twice the load."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Requests in the order they were sent; arrays of one length.

    Attributes:
        intended_s: when each was due, from the start.
        latency_s: from then until its fate was known.
        answered, refused: what that was; neither is a failure.
    """

    intended_s: Floats
    latency_s: Floats
    answered: Flags
    refused: Flags

    def between(self, from_s: float, to_s: float) -> Sent:
        """Give those that were due from one time until just before another."""
        inside = (self.intended_s >= from_s) & (self.intended_s < to_s)
        columns = (self.intended_s, self.latency_s, self.answered, self.refused)
        return Sent(*(column[inside] for column in columns))


@dataclass(frozen=True, slots=True)
class Shape:
    """How long a load lasts and what follows it.

    Attributes:
        load_s: the load in question.
        tail_s: half of the capacity after it.
    """

    load_s: float
    tail_s: float

    @property
    def whole_s(self) -> float:
        """All of it."""
        return self.load_s + self.tail_s


def arrivals(capacity_rps: float, offered: float, shape: Shape, seed: int) -> Floats:
    """Give when requests are sent: a Poisson process, of the load's rate and then the tail's.

    Args:
        capacity_rps: requests a second that can be served.
        offered: the load as a multiple of it.
        shape: how long.
        seed: of the dice.
    """
    dice = np.random.default_rng(seed)
    pieces = []
    for rate_rps, from_s, length_s in (
        (offered * capacity_rps, 0.0, shape.load_s),
        (0.5 * capacity_rps, shape.load_s, shape.tail_s),
    ):
        count = dice.poisson(rate_rps * length_s)
        pieces.append(from_s + np.sort(dice.uniform(0, length_s, count)))
    return np.concatenate(pieces)


def cell(
    system: str,
    offered: float,
    sent: Sent,
    *,
    shape: Shape,
    capacity_rps: float,
    slo_s: float,
    normal_s: float,
) -> dict[str, Any]:
    """Sum a load up; shares of capacity, milliseconds, and None where nothing of the kind came.

    Args:
        system: who served.
        offered: as a multiple of capacity.
        sent: all requests.
        shape: how long the load lasted.
        capacity_rps: requests a second that can be served.
        slo_s: what an answer counts within.
        normal_s: the median answer where capacity is twice the load.
    """
    load = sent.between(0.0, shape.load_s)
    good = load.answered & (load.latency_s <= slo_s)
    answers_s, refusals_s = load.latency_s[load.answered], load.latency_s[load.refused]
    return {
        "system": system,
        "offered": offered,
        "requests": len(load.intended_s),
        "goodput_over_capacity": float(good.sum()) / shape.load_s / capacity_rps,
        "answered": int(load.answered.sum()),
        "refused": int(load.refused.sum()),
        "failed": int((~load.answered & ~load.refused).sum()),
        "refusal_p50_ms": _quantile_ms(refusals_s, 0.5),
        "p50_ms": _quantile_ms(answers_s, 0.5),
        "p99_ms": _quantile_ms(answers_s, 0.99),
        "recovery_s": recovery_s(sent, shape, normal_s),
    }


def recovery_s(sent: Sent, shape: Shape, normal_s: float) -> float | None:
    """Give the seconds from the load's end to the first half second that is normal, if any is."""
    for at_s in np.arange(shape.load_s, shape.whole_s, BIN_S):
        some = sent.between(at_s, at_s + BIN_S)
        if len(some.intended_s) and is_normal(some, normal_s):
            return float(at_s - shape.load_s)
    return None


def is_normal(some: Sent, normal_s: float) -> bool:
    """Whether all were answered, in the median not much later than usual."""
    return bool(some.answered.all() and np.median(some.latency_s) <= NORMAL * normal_s)


def median_s(sent: Sent) -> float:
    """Give the median answer."""
    return float(np.median(sent.latency_s[sent.answered])) if sent.answered.any() else np.inf


def _quantile_ms(values_s: Floats, share: float) -> float | None:
    return float(np.quantile(values_s, share)) * 1e3 if len(values_s) else None
