"""A decision says what it was made for, and what was judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paldia.api import decisions
from paldia.api.v1 import types_pb2 as pb
from paldia.core import observation as obs
from paldia.core.forecast.base import RateEstimate
from paldia.core.forecast.recurrence import Recurrence

HOUR_S = 3600.0
NOW_S = 500 * HOUR_S
CALM = obs.ModelMemory(rate=RateEstimate(17.0), expected_rate=17.0)


def wire(message):
    """Send a message and read it."""
    return type(message).FromString(message.SerializeToString())


def recurring(rate: float, ago_s: float) -> Recurrence:
    """Give what is known once a rate came in one minute, and none after it."""
    then_s = NOW_S - ago_s
    return Recurrence().after(rate, then_s).after(0.0, then_s + 60).after(0.0, then_s + 120)


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (CALM, "rate"),
        (replace(CALM, expected_rate=42.0), "peak"),
        (replace(CALM, expected_rate=42.0, recurrence=recurring(42.0, HOUR_S)), "recurrence"),
        (replace(CALM, expected_rate=42.0, recurrence=recurring(42.0, HOUR_S - 300)), "recurrence"),
        (replace(CALM, expected_rate=42.0, recurrence=recurring(41.0, HOUR_S)), "peak"),
    ],
)
def test_the_reason_why_more_is_held_is_found(memory, reason):
    assert decisions.held_for(memory, NOW_S) == reason


def decided(**changes) -> obs.Decision:
    decision = obs.Decision(
        decided_s=NOW_S,
        model="m",
        generation=3,
        action=obs.Action.MOVE,
        reason="cheaper",
        rate=RateEstimate(17.0, dispersion=2.5),
        backlog=4,
        candidates=(),
        chosen=None,
        slo_unreachable=False,
        inputs_digest="d",
        before=(obs.Assignment("old", "cpu", "a", 1, 1),),
        after=(obs.Assignment("new", "gpu", "a", 2, 8),),
    )
    return replace(decision, **changes)


def test_a_decision_tells_what_came_and_what_hardware_is_held_for():
    memory = replace(CALM, expected_rate=42.0)
    encoded = wire(decisions.decision_to_proto(decided(), memory))
    assert encoded.demand == pb.Demand(
        requests_per_second=17.0,
        dispersion=2.5,
        backlog=4,
        held_requests_per_second=42.0,
        held_for="peak",
    )
    assert (list(encoded.from_node_ids), list(encoded.to_node_ids)) == (["old"], ["new"])
    assert encoded.chosen == -1


def test_a_choice_that_is_no_kinds_best_joins_the_candidates():
    here = obs.Candidate(
        "cpu", obs.Verdict.FEASIBLE, "", (obs.Assignment("n", "cpu", "a", 1, 1),), 0.1
    )
    best = obs.Candidate(
        "cpu", obs.Verdict.FEASIBLE, "", (obs.Assignment("o", "cpu", "a", 1, 1),), 0.1
    )
    encoded = decisions.decision_to_proto(decided(candidates=(best,), chosen=here), CALM)
    assert [list(each.node_ids) for each in encoded.candidates] == [["o"], ["n"]]
    assert encoded.chosen == 1
    of_them = decisions.decision_to_proto(decided(candidates=(best,), chosen=best), CALM)
    assert (len(of_them.candidates), of_them.chosen) == (1, 0)


def test_a_candidate_tells_the_sm_share_of_its_processes():
    held = obs.Assignment("n", "gpu", "d", lanes=2, batch=8, sm_percent=30)
    candidate = obs.Candidate("gpu", obs.Verdict.FEASIBLE, "", (held,), latency_s=0.1)
    encoded = wire(decisions.candidate_to_proto(candidate))
    assert (encoded.lanes, encoded.batch_size, encoded.sm_percent) == (2, 8, 30)
