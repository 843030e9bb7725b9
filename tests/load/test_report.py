import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.errors import InvalidArgumentError
from paldia.load.outcomes import Outcome
from paldia.load.report import summarise

outcome = st.builds(
    lambda intended_s, lag_s, rest_s, code: Outcome(
        intended_s, lag_s, intended_s + lag_s + rest_s, code
    ),
    st.floats(0, 30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNSENT"]),
)


def test_arithmetic_by_hand() -> None:
    outcomes = [
        Outcome(0.0, 0.0, 0.05, "OK"),
        Outcome(0.5, 0.0, 0.6, "OK"),
        Outcome(0.9, 0.4, 1.4, "OK"),  # on time once sent, but sent late
        Outcome(2.0, 0.0, 2.0, "RESOURCE_EXHAUSTED"),
        Outcome(2.1, 0.0, 3.1, "DEADLINE_EXCEEDED"),
        Outcome(2.2, 0.0, 2.3, "UNAVAILABLE"),
        Outcome(2.3, 0.0, 2.4, "INTERNAL"),
        Outcome(2.4, 0.0, 2.4, "UNSENT"),
        Outcome(2.5, 0.0, 2.6, "MALFORMED"),
    ]
    report = summarise(outcomes, slo_s=0.11, duration_s=3.0)
    counts = (report.in_slo, report.late, report.refused, report.expired, report.failed)
    assert counts == (2, 1, 1, 1, 3)
    assert (report.offered, report.unsent, report.unanswered) == (9, 1, 6)
    assert (report.offered_rps, report.answered_rps, report.goodput_rps) == (3.0, 1.0, 0.667)
    assert report.compliance == 2 / 9
    assert report.p50_ms == pytest.approx(100, rel=1e-3)
    assert report.p99_ms == pytest.approx(500, rel=1e-3)
    assert (report.mean_ms, report.max_ms) == (pytest.approx(216.667), 500.0)
    assert report.lag_max_ms == 400.0
    assert not report.kept_up
    assert report.by_code["INTERNAL"] == 1
    first, silent, last = report.timeline
    assert (first.offered, first.answered, first.in_slo, first.failed) == (3, 3, 2, 0)
    assert (silent.offered, silent.p99_ms) == (0, None)
    assert (last.offered, last.in_slo, last.p99_ms) == (6, 0, None)
    assert (last.refused, last.failed) == (1, 5)


def test_without_any_answer_there_is_no_latency() -> None:
    report = summarise([Outcome(0.0, 0.0, 0.1, "UNAVAILABLE")], slo_s=1.0, duration_s=1.0)
    assert (report.compliance, report.p50_ms, report.p99_ms) == (0.0, None, None)
    assert (report.max_ms, report.refusal_p50_ms, report.kept_up) == (None, None, True)


def test_nothing_offered_has_no_compliance() -> None:
    with pytest.raises(InvalidArgumentError, match="no requests"):
        summarise([], slo_s=1.0, duration_s=1.0)


def test_answers_after_the_end_are_no_throughput() -> None:
    """A server that answers at 2/s what is offered at 4/s doesn't look like one of 4/s."""
    outcomes = [Outcome(n / 4, 0.0, n / 2 + 0.4, "OK") for n in range(8)]
    report = summarise(outcomes, slo_s=10.0, duration_s=2.0)
    assert (report.answered, report.offered_rps, report.answered_rps) == (8, 4.0, 2.0)


def test_a_late_generator_is_judged_by_what_is_measured() -> None:
    late = [Outcome(0.1 * n, 0.02, 0.1 * n + 0.05, "OK") for n in range(9)]
    slow = [Outcome(0.1 * n, 0.02, 0.1 * n + 0.50, "OK") for n in range(9)]
    assert not summarise(late, slo_s=1.0, duration_s=1.0).kept_up
    assert summarise(slow, slo_s=1.0, duration_s=1.0).kept_up


@given(st.lists(outcome, min_size=1, max_size=60), st.floats(0.01, 2))
def test_every_request_is_counted_once(outcomes: list[Outcome], slo_s: float) -> None:
    report = summarise(outcomes, slo_s, 31.0)
    parts = (report.in_slo, report.late, report.refused, report.expired, report.failed)
    assert sum(parts) + report.unsent == report.offered == len(outcomes)
    assert report.unanswered == report.refused + report.expired + report.failed + report.unsent
    assert sum(report.by_code.values()) == report.offered
    for name in ("offered", "answered", "in_slo", "refused"):
        assert sum(getattr(row, name) for row in report.timeline) == getattr(report, name)
    assert sum(row.answered + row.refused + row.failed for row in report.timeline) == len(outcomes)
    assert 0 <= report.compliance <= 1
