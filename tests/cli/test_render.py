"""What people read: every number that decided, in milliseconds, percent and dollars."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest

from paldia.cli import render
from paldia.cli.output import as_text, plain
from paldia.client import (
    Candidate,
    Decision,
    Demand,
    Explanation,
    Failure,
    LatencyPoint,
    Model,
    ModelPhase,
    OverloadPolicy,
    Placement,
    PlacementState,
    Profile,
    Provenance,
    Revision,
    Slo,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REVISION = Revision(
    generation=2,
    artifact_digest="d" * 64,
    slo=Slo(0.1, 0.99),
    max_batch=0,
    min_replicas=1,
    keep_alive_s=600.0,
    on_overload=OverloadPolicy.QUEUE,
    created_at=NOW,
)
MODEL = Model(
    name="magika",
    phase=ModelPhase.READY,
    reason="",
    slo_unreachable=False,
    requests_per_second=12.34,
    serving=REVISION,
    candidate=None,
    last_failure=None,
    placements=(
        Placement("n1", "cpu-full", PlacementState.READY, 1, 4, "127.0.0.1:9", "", "d" * 64),
    ),
    resource_version=7,
)
CHEAP = Candidate(
    hardware="cpu-half",
    node_ids=("n2",),
    batch_size=1,
    lanes=1,
    predicted_latency_s=0.1234,
    throughput_per_second=45.6,
    price_usd_per_hour=0.04,
    added_usd_per_hour=0.04,
    utilisation=0.5,
    verdict="latency",
    detail="123.4 ms is over the SLO of 100 ms",
)
WINNER = dataclasses.replace(
    CHEAP,
    hardware="cpu-full",
    node_ids=("n1",),
    predicted_latency_s=0.0617,
    price_usd_per_hour=0.1,
    verdict="feasible",
    detail="61.7 ms of 100 ms",
)
DECISION = Decision(
    model="magika",
    generation=2,
    decided_at=NOW,
    action="move",
    reason="the cheapest of 1 feasible",
    slo_unreachable=False,
    demand=Demand(12.3, 1.5, 2),
    candidates=(CHEAP, WINNER),
    chosen=1,
    from_node_ids=("n2",),
    to_node_ids=("n1",),
    inputs_digest="abc",
)
PROFILE = Profile(
    hardware="cpu-full",
    artifact_digest="d" * 64,
    node_id="n1",
    points=(LatencyPoint(1, 0.0105, 20), LatencyPoint(2, 0.0201, 20)),
    load_s=1.4,
    memory_bytes=78_000_000,
    demand_fraction=1.0,
    colocation_penalty=0.05,
    provenance=Provenance.MEASURED,
    measured_at=NOW,
    failure="",
)


def test_explain_shows_every_candidate_the_reason_and_the_history():
    text = as_text(*render.explanation(Explanation(MODEL, DECISION, (DECISION,), (PROFILE,))))
    for number in ("123.4", "61.7", "45.6", "0.040", "0.100", "50%", "100 ms / 99 %", "12.3"):
        assert number in text
    assert "123.4 ms is over the SLO of 100 ms" in text
    winner = next(line for line in text.splitlines() if " feasible" in line and "61.7" in line)
    assert winner.startswith("*")
    assert "Why: the cheapest of 1 feasible" in text
    history = next(line for line in text.splitlines() if " move " in line)
    assert "n2" in history
    assert "n1" in history
    assert "10.5" in text
    assert "measured" in text


def test_explain_without_a_winner_says_why():
    nothing = dataclasses.replace(DECISION, chosen=None, reason="no node is left")
    text = as_text(*render.explanation(Explanation(MODEL, nothing, (), ())))
    assert "Nothing chosen: no node is left" in text


def test_models_tell_what_their_owner_should_know():
    failure = Failure(3, "Traceback: it raised\nmore", NOW)
    model = dataclasses.replace(
        MODEL, slo_unreachable=True, last_failure=failure, candidate=None, reason="busy"
    )
    text = as_text(render.models([model]))
    assert "slo_unreachable" in text
    assert "generation 3 failed: Traceback: it raised" in text
    assert "busy" in text
    assert "more" not in text
    assert "n1 1x4" in text


def test_a_profile_that_failed_shows_why():
    failed = dataclasses.replace(PROFILE, points=(), failure="out of memory\nat line 3")
    assert "out of memory" in as_text(render.profiles([failed]))


def test_text_for_a_pipe_is_never_wrapped():
    long = dataclasses.replace(WINNER, detail="x" * 500)
    decision = dataclasses.replace(DECISION, candidates=(long,), chosen=0)
    assert "x" * 500 in as_text(*render.explanation(Explanation(MODEL, decision, (), ())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_numbers_that_json_lacks(value: float):
    candidate = dataclasses.replace(WINNER, predicted_latency_s=value)
    document = json.dumps(plain(candidate), allow_nan=False)
    assert json.loads(document)["predicted_latency_s"] is None


def test_json_gives_enums_and_moments_as_text():
    document = plain(MODEL)
    assert document["phase"] == "ready"
    assert document["serving"]["on_overload"] == "queue"
    assert document["serving"]["created_at"] == "2026-01-02T03:04:05+00:00"
    assert json.loads(json.dumps(document)) == document
