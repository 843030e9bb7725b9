"""How a replay went, by the objective's own arithmetic.

Compliance is answers within the SLO over all requests offered: what was refused, failed,
expired or never sent stays in the denominator. Percentiles are over the answers alone, so
read them together with it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paldia.core.errors import InvalidArgumentError
from paldia.load.replay import ANSWERED, EXPIRED, REFUSED, UNSENT, Outcome


@dataclass(frozen=True, slots=True)
class Second:
    """The requests that were meant to be sent within the second that starts at `start_s`.

    `by_tag` counts their answers by the value of the tag that the report was asked to
    tell apart; `p99_s` is None if there was no answer.
    """

    start_s: int
    offered: int
    in_slo: int
    p99_s: float | None
    by_tag: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """Outcomes counted. Each request is in exactly one of the six counts after `offered`."""

    offered: int
    in_slo: int
    late: int
    refused: int
    expired: int
    failed: int
    unsent: int
    by_code: Mapping[str, int]
    p50_s: float | None
    p99_s: float | None
    lag_p99_s: float
    lag_max_s: float
    timeline: tuple[Second, ...]

    @property
    def compliance(self) -> float:
        """Answers within the SLO over all requests offered, 0 to 1."""
        return self.in_slo / self.offered

    @property
    def unanswered(self) -> int:
        """Requests that got no answer, for whatever reason."""
        return self.offered - self.in_slo - self.late


def summarise(outcomes: Sequence[Outcome], slo_s: float, tag: str = "") -> Report:
    """Count outcomes against an SLO.

    Args:
        outcomes: of all requests offered.
        slo_s: latency, in seconds, that an answer must keep within.
        tag: the answer's parameter that the timeline counts by; empty for none.

    Raises:
        InvalidArgumentError: nothing was offered, so there is no compliance.
    """
    if not outcomes:
        raise InvalidArgumentError("no requests were offered, so there is nothing to report")
    by_code = Counter(outcome.code for outcome in outcomes)
    in_slo = _in_slo(outcomes, slo_s)
    told_apart = by_code[REFUSED] + by_code[EXPIRED] + by_code[UNSENT] + by_code[ANSWERED]
    lags_s = [outcome.lag_s for outcome in outcomes]
    return Report(
        offered=len(outcomes),
        in_slo=in_slo,
        late=by_code[ANSWERED] - in_slo,
        refused=by_code[REFUSED],
        expired=by_code[EXPIRED],
        failed=len(outcomes) - told_apart,
        unsent=by_code[UNSENT],
        by_code=dict(by_code),
        p50_s=_percentile(outcomes, 50),
        p99_s=_percentile(outcomes, 99),
        lag_p99_s=float(np.percentile(lags_s, 99)),
        lag_max_s=max(lags_s),
        timeline=_timeline(outcomes, slo_s, tag),
    )


def _timeline(outcomes: Iterable[Outcome], slo_s: float, tag: str) -> tuple[Second, ...]:
    seconds: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        seconds[math.floor(outcome.intended_s)].append(outcome)
    return tuple(
        _second(start_s, seconds[start_s], slo_s, tag) for start_s in range(max(seconds) + 1)
    )


def _second(start_s: int, outcomes: Sequence[Outcome], slo_s: float, tag: str) -> Second:
    return Second(
        start_s=start_s,
        offered=len(outcomes),
        in_slo=_in_slo(outcomes, slo_s),
        p99_s=_percentile(outcomes, 99),
        by_tag=dict(Counter(str(o.tags[tag]) for o in outcomes if tag in o.tags)),
    )


def _in_slo(outcomes: Iterable[Outcome], slo_s: float) -> int:
    return sum(o.code == ANSWERED and o.latency_s <= slo_s for o in outcomes)


def _percentile(outcomes: Iterable[Outcome], percent: float) -> float | None:
    latencies_s = [o.latency_s for o in outcomes if o.code == ANSWERED]
    return float(np.percentile(latencies_s, percent)) if latencies_s else None
