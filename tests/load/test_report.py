import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.errors import InvalidArgumentError
from paldia.load.replay import Outcome
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
        Outcome(0.0, 0.0, 0.05, "OK", {"node": "a"}),
        Outcome(0.5, 0.0, 0.6, "OK", {"node": "a"}),
        Outcome(0.9, 0.4, 1.4, "OK", {"node": "b"}),  # on time once sent, but sent late
        Outcome(2.0, 0.0, 2.0, "RESOURCE_EXHAUSTED"),
        Outcome(2.1, 0.0, 3.1, "DEADLINE_EXCEEDED"),
        Outcome(2.2, 0.0, 2.3, "UNAVAILABLE"),
        Outcome(2.3, 0.0, 2.4, "INTERNAL"),
        Outcome(2.4, 0.0, 2.4, "UNSENT"),
    ]
    report = summarise(outcomes, slo_s=0.11, tag="node")
    counts = (report.in_slo, report.late, report.refused, report.expired, report.failed)
    assert counts == (2, 1, 1, 1, 2)
    assert (report.offered, report.unsent, report.unanswered) == (8, 1, 5)
    assert report.compliance == 2 / 8
    assert report.p50_s == pytest.approx(0.1)
    assert report.p99_s == pytest.approx(0.492)
    assert report.lag_max_s == 0.4
    assert report.by_code["INTERNAL"] == 1
    first, silent, last = report.timeline
    assert (first.offered, first.in_slo, first.by_tag) == (3, 2, {"a": 2, "b": 1})
    assert (silent.offered, silent.p99_s) == (0, None)
    assert (last.offered, last.in_slo, last.p99_s, last.by_tag) == (5, 0, None, {})


def test_without_any_answer_there_is_no_latency() -> None:
    report = summarise([Outcome(0.0, 0.0, 0.1, "UNAVAILABLE")], slo_s=1.0)
    assert (report.compliance, report.p50_s, report.p99_s) == (0.0, None, None)


def test_nothing_offered_has_no_compliance() -> None:
    with pytest.raises(InvalidArgumentError, match="no requests"):
        summarise([], slo_s=1.0)


@given(st.lists(outcome, min_size=1, max_size=60), st.floats(0.01, 2))
def test_every_request_is_counted_once(outcomes: list[Outcome], slo_s: float) -> None:
    report = summarise(outcomes, slo_s)
    parts = (report.in_slo, report.late, report.refused, report.expired, report.failed)
    assert sum(parts) + report.unsent == report.offered == len(outcomes)
    assert report.unanswered == report.refused + report.expired + report.failed + report.unsent
    assert sum(report.by_code.values()) == report.offered
    assert sum(second.offered for second in report.timeline) == report.offered
    assert sum(second.in_slo for second in report.timeline) == report.in_slo
    assert 0 <= report.compliance <= 1
