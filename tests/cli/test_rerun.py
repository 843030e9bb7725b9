"""`paldia explain --at --replay`: the same answer, or what differs, and the exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from paldia.api import recording
from paldia.api.decisions import decision_to_proto
from paldia.api.recording import Recording
from paldia.api.v1 import control_pb2, types_pb2
from paldia.cli import recalling, rerun
from paldia.client import Record, decode
from paldia.core.errors import InvalidArgumentError, NotServableError
from paldia.core.observation import Action
from tests.api.steps import eventful

MOVE = next(
    made
    for made in eventful()
    if any(d.model == "m" and d.action is Action.MOVE for d in made.outcome.decisions)
)


def record(made: Recording, step: types_pb2.RecordedStep | None = None) -> Record:
    """Give the record of model `m`, as the controller answers it."""
    (mine,) = [decision for decision in made.outcome.decisions if decision.model == "m"]
    message = decision_to_proto(mine, made.outcome.memory["m"])
    answer = control_pb2.GetDecisionResponse(decision=message)
    answer.step.CopyFrom(recording.packed(made) if step is None else step)
    return decode.record(answer)


def tampered(**changes) -> Recording:
    """Give the move, with its outcome changed after it was decided."""
    return replace(MOVE, outcome=replace(MOVE.outcome, **changes))


def fields(came: rerun.Rerun) -> set[str]:
    return {difference.field for difference in came.differences}


@pytest.mark.parametrize(
    "made", [made for made in eventful() if any(d.model == "m" for d in made.outcome.decisions)]
)
def test_what_was_recorded_comes_out_the_same(made):
    came = rerun.rerun(record(made))
    assert came.same
    assert (came.different, came.differences) == (0, ())
    assert came.compared > 100
    assert came.recorded_by == came.rerun_by


def test_another_place_in_the_plan_is_told():
    plan = MOVE.outcome.plan["m"]
    moved = replace(plan, target=(replace(plan.target[0], lanes=7), *plan.target[1:]))
    came = rerun.rerun(record(tampered(plan={**MOVE.outcome.plan, "m": moved})))
    assert not came.same
    (difference,) = came.differences
    assert difference.field == "plan[m].target[0].lanes"
    assert (difference.stored, difference.rerun) == ("7", str(plan.target[0].lanes))


def test_a_model_too_many_or_too_few_is_told():
    decisions = tuple(d for d in MOVE.outcome.decisions if d.model == "m")
    more = {**MOVE.outcome.memory, "ghost": MOVE.outcome.memory["m"]}
    came = rerun.rerun(record(tampered(decisions=decisions, memory=more)))
    assert fields(came) == {"decisions[idle]", "memory[ghost]"}


def test_counters_and_alarms_count_too():
    memory = replace(MOVE.outcome.memory["m"], unready_since_s=3.0)
    changed = tampered(memory={**MOVE.outcome.memory, "m": memory}, alarm="fire")
    assert fields(rerun.rerun(record(changed))) == {"memory[m].unready_since_s", "alarm"}


def test_a_record_that_is_not_the_steps_is_told():
    found = record(MOVE)
    forged = replace(found, decision=replace(found.decision, reason="a hunch"))
    assert fields(rerun.rerun(forged)) == {"record.reason"}
    strange = replace(found, decision=replace(found.decision, model="other"))
    assert fields(rerun.rerun(strange)) == {"record"}


def test_other_inputs_give_another_answer():
    view = next(view for view in MOVE.observation.models if view.model.name == "m")
    calm = replace(view, demand=replace(view.demand, arrivals=0.0))
    models = tuple(calm if v is view else v for v in MOVE.observation.models)
    changed = replace(MOVE, observation=replace(MOVE.observation, models=models))
    came = rerun.rerun(record(changed))
    assert any(field.startswith("plan[m]") for field in fields(came))
    assert any(field.startswith("record.") for field in fields(came))


def test_figures_that_are_no_numbers_are_alike():
    (mine,) = [decision for decision in MOVE.outcome.decisions if decision.model == "m"]
    nothing = float("nan")
    assert list(rerun._fields("x", (nothing,), (mine,))) != []
    assert rerun._same(nothing, float("nan"))
    assert not rerun._same(nothing, 1.0)


def test_differences_beyond_the_limit_are_counted(monkeypatch):
    monkeypatch.setattr(rerun, "DIFFERENCES_LIMIT", 2)
    came = rerun.rerun(record(tampered(plan={}, alarm="fire")))
    assert (came.different > 2, len(came.differences)) == (True, 2)


class Controller:
    """Answers one record, and keeps what it was asked."""

    def __init__(self, answer: Record) -> None:
        self.answer = answer
        self.asked: list[tuple] = []

    def __call__(self, address: str | None):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def decision(self, name: str, at: datetime | None, *, with_step: bool) -> Record:
        self.asked.append((name, at, with_step))
        return self.answer if with_step else replace(self.answer, step=None)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch):
    """Give a function that puts a controller in place that answers so."""

    def answer(found: Record) -> Controller:
        controller = Controller(found)
        monkeypatch.setattr(recalling, "Client", controller)
        return controller

    return answer


def test_the_record_is_shown_without_the_step(paldia, answering):
    controller = answering(record(MOVE))
    ran = paldia("explain", "m", "--at", "2020-09-22T00:00:00Z")
    assert ran.code == 0
    assert controller.asked == [("m", datetime(2020, 9, 22, 0, 0, 0, 999_999, tzinfo=UTC), False)]
    heading = ran.out.splitlines()[0]
    assert heading.startswith("m, in force at ")
    assert ": move, from f0 to s0, s1" in heading
    assert "requests/s then, held for " in ran.out
    assert "Why: " in ran.out
    assert "Run again" not in ran.out


def test_a_replay_that_agrees_exits_with_0(paldia, answering):
    controller = answering(record(MOVE))
    ran = paldia("explain", "m", "--replay")
    assert (ran.code, ran.err) == (0, "")
    assert controller.asked == [("m", None, True)]
    assert "same answer in all " in ran.out.splitlines()[-1]


def test_a_replay_that_differs_exits_with_1_and_says_where(paldia, answering):
    found = record(tampered(alarm="x" * 100))
    answering(found)
    ran = paldia("explain", "m", "--at", "-0s", "--replay")
    assert ran.code == 1
    assert ": 1 of " in ran.out
    row = ran.out.splitlines()[-1].split()
    assert row[0] == "alarm"
    assert row[1].startswith("xxx")
    assert row[1].endswith("...")
    assert "Traceback" not in ran.err


def test_a_step_by_other_rules_says_so(paldia, answering):
    step = recording.packed(MOVE)
    step.version, step.core_digest = "0.0.9", "f" * 64
    answering(record(MOVE, step))
    ran = paldia("explain", "m", "--replay")
    assert "recorded by paldia 0.0.9 (core ffffffff), so the rules may have changed" in ran.out


@pytest.mark.parametrize("changed", [False, True])
def test_json_has_the_record_and_the_verdict(paldia, answering, changed):
    answering(record(tampered(alarm="fire") if changed else MOVE))
    ran = paldia("explain", "m", "--at", "-1s", "--replay", "--json")
    assert ran.code == int(changed)
    document = json.loads(ran.out)
    assert document.keys() == {"at", "decision", "unchanged", "replay"}
    assert document["decision"]["to_node_ids"] == ["s0", "s1"]
    assert document["replay"]["same"] is not changed
    told = [{"field": "alarm", "stored": "fire", "rerun": ""}] if changed else []
    assert document["replay"]["differences"] == told
    plain = json.loads(paldia("explain", "m", "--at", "-1s", "--json").out)
    assert plain.keys() == {"at", "decision", "unchanged"}


def test_a_review_says_that_nothing_changed(paldia, answering):
    reviewed = next(
        made
        for made in eventful()
        if any(d.model == "m" and d.action is Action.KEEP for d in made.outcome.decisions)
    )
    answering(replace(record(reviewed), unchanged=True))
    assert ": keep, and it stayed on f0" in paldia("explain", "m", "--at", "-1s").out


@pytest.mark.parametrize(
    ("step", "kind", "said"),
    [
        (types_pb2.RecordedStep(not_kept="it was a whale"), NotServableError, "a whale"),
        (
            types_pb2.RecordedStep(version="9.9.9", form_digest="0"),
            NotServableError,
            "run it again with paldia 9.9.9",
        ),
        (
            types_pb2.RecordedStep(form_digest=recording.form_digest(), content=b"none"),
            InvalidArgumentError,
            "damaged",
        ),
    ],
)
def test_what_cannot_be_run_again_exits_with_1_and_the_cause(paldia, answering, step, kind, said):
    found = record(MOVE, step)
    with pytest.raises(kind, match=said):
        rerun.rerun(found)
    answering(found)
    ran = paldia("explain", "m", "--replay")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("paldia: ")
    assert said in ran.err


@pytest.mark.parametrize("at", ["soon", "2999-01-01"])
def test_a_time_that_is_none_is_wrong_usage(paldia, at):
    ran = paldia("explain", "m", "--at", at)
    assert ran.code == 2
    assert "--at" in ran.err
    assert ran.out == ""
