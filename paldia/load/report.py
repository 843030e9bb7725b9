"""How it went, by the objective's own arithmetic.

Goodput is answers within the SLO: what was refused, failed, expired or never sent stays in the
denominator. Percentiles are over the answers alone, so read them together with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from paldia.core.errors import InvalidArgumentError
from paldia.load.outcomes import EXPIRED, REFUSED, UNSENT, Log, Outcome
from paldia.load.tally import Histogram, Second, Tally

LAG_ALLOWED_S = 0.005
LAG_ALLOWED_SHARE = 0.1
"""Of the median latency: a generator that lags by more tells of itself, not of the server."""


@dataclass(frozen=True, slots=True)
class Row:
    """The requests that were meant to be sent within a second; `in_slo` is None without an SLO."""

    second: int
    offered: int
    answered: int
    in_slo: int | None
    refused: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Outcomes counted. Each request is in one of answered, refused, expired, failed, unsent.

    Attributes:
        answered_rps: answers per second within the duration, whenever they were asked for.
        in_slo, goodput_rps: answers within the SLO, all and per second; None without an SLO.
        kept_up: whether the generator sent when it should have.
    """

    duration_s: float
    offered: int
    offered_rps: float
    answered: int
    answered_rps: float
    by_code: Mapping[str, int]
    refused: int
    expired: int
    failed: int
    unsent: int
    in_slo: int | None
    goodput_rps: float | None
    slo_ms: float | None
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    refusal_p50_ms: float | None
    refusal_p99_ms: float | None
    lag_p99_ms: float
    lag_max_ms: float
    kept_up: bool
    timeline: tuple[Row, ...]

    @property
    def compliance(self) -> float:
        """Answers within the SLO over all requests offered, 0 to 1; without an SLO all answers."""
        return (self.answered if self.in_slo is None else self.in_slo) / self.offered

    @property
    def late(self) -> int:
        """Answers that weren't within the SLO."""
        return 0 if self.in_slo is None else self.answered - self.in_slo

    @property
    def unanswered(self) -> int:
        """Requests that got no answer, for whatever reason."""
        return self.offered - self.answered

    def figures(self) -> dict[str, object]:
        """Give all fields by name, in their order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def report(
    tally: Tally, slo_s: float | None, duration_s: float, *, is_saturated: bool = False
) -> Report:
    """Sum up.

    Args:
        tally: all outcomes.
        slo_s: latency, in seconds, that an answer must keep within, if there is an objective.
        duration_s: seconds from the end of the warm-up to the end of sending.
        is_saturated: whether the generator is known not to have kept up.

    Raises:
        InvalidArgumentError: nothing was offered, so there is nothing to say.
    """
    if not tally.offered:
        raise InvalidArgumentError("no requests were offered, so there is nothing to report")
    by_code, latencies, lags = tally.by_code, tally.latencies, tally.lags
    refused, expired = by_code.get(REFUSED, 0), by_code.get(EXPIRED, 0)
    unsent = by_code.get(UNSENT, 0)
    told_apart = latencies.count + refused + expired + unsent
    p50_s, lag_p99_s = latencies.percentile_s(50) or 0.0, lags.percentile_s(99) or 0.0
    return Report(
        duration_s=round(duration_s, 3),
        offered=tally.offered,
        offered_rps=round(tally.offered / duration_s, 3),
        answered=latencies.count,
        answered_rps=round(_answered_rps(tally, duration_s), 3),
        by_code=by_code,
        refused=refused,
        expired=expired,
        failed=tally.offered - told_apart,
        unsent=unsent,
        in_slo=None if slo_s is None else tally.in_slo,
        goodput_rps=None if slo_s is None else round(tally.in_slo / duration_s, 3),
        slo_ms=_ms(slo_s),
        mean_ms=_ms(latencies.mean_s()),
        p50_ms=_ms(latencies.percentile_s(50)),
        p90_ms=_ms(latencies.percentile_s(90)),
        p99_ms=_ms(latencies.percentile_s(99)),
        p999_ms=_ms(latencies.percentile_s(99.9)),
        max_ms=_ms(_most_s(latencies)),
        refusal_p50_ms=_ms(tally.refusals.percentile_s(50)),
        refusal_p99_ms=_ms(tally.refusals.percentile_s(99)),
        lag_p99_ms=round(lag_p99_s * 1e3, 3),
        lag_max_ms=round(lags.most_s * 1e3, 3),
        kept_up=not is_saturated and lag_p99_s <= max(LAG_ALLOWED_S, LAG_ALLOWED_SHARE * p50_s),
        timeline=rows(tally, slo_s, first=0),
    )


def _answered_rps(tally: Tally, duration_s: float) -> float:
    """Answers per second by the whole seconds, those that came after the end left out."""
    whole_s = int(duration_s)
    return tally.answers_done(whole_s) / whole_s if whole_s else tally.latencies.count / duration_s


def rows(tally: Tally, slo_s: float | None, first: int) -> tuple[Row, ...]:
    """Give a row for each second from `first` on, those without requests included."""
    last = max(tally.seconds, default=first - 1)
    return tuple(
        _row(number, tally.seconds.get(number, Second()), slo_s)
        for number in range(first, last + 1)
    )


def _row(number: int, second: Second, slo_s: float | None) -> Row:
    answered = second.answered
    return Row(
        second=number,
        offered=second.offered,
        answered=answered,
        in_slo=None if slo_s is None else second.in_slo,
        refused=second.refused,
        failed=second.offered - answered - second.refused,
        p50_ms=_ms(second.percentile_s(50)),
        p99_ms=_ms(second.percentile_s(99)),
    )


def summarise(outcomes: Iterable[Outcome], slo_s: float, duration_s: float) -> Report:
    """Sum up single outcomes against an SLO; see `report`."""
    log = Log()
    for it in outcomes:
        log.note(it.intended_s, it.lag_s, it.done_s, it.code)
    tally = Tally(slo_s)
    tally.add(log.take())
    return report(tally, slo_s, duration_s)


def _most_s(histogram: Histogram) -> float | None:
    return histogram.most_s if histogram.count else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
