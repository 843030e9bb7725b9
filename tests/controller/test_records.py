"""What is kept of the planner's steps: whole, in the same commit, bounded, and found again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from paldia_controller import records
from paldia_controller.applier import plan_changes
from paldia_controller.recall import record_at
from paldia_controller.records import Recorder
from paldia_controller.state import State

from paldia.api import recording
from paldia.api.decisions import decision_to_proto
from paldia.api.recording import Recording
from paldia.api.v1 import control_pb2, types_pb2
from paldia.core.errors import NotFoundError, NotServableError
from paldia.core.observation import Action, Decision
from paldia.store.base import COMMIT_LIMIT_BYTES, COMMIT_LIMIT_WRITES, Delete, Put, check_commit
from paldia.store.embedded import EmbeddedStore
from tests.api.steps import Planner, eventful


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    store = EmbeddedStore(tmp_path / "state.db")
    following = State(store)
    follower = asyncio.create_task(following.follow())
    await following.synced(10)
    yield following
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    await store.close()


def decided(made: Recording) -> list[Decision]:
    return [d for d in made.outcome.decisions if d.action is not Action.KEEP]


async def carry_out(state: State, recorder: Recorder, made: Recording) -> list[Put | Delete]:
    """Commit a step as the planner does, and give the writes that record it."""
    changes = plan_changes(state, made.observation.plan, made.outcome)
    done = [decision.model for decision in decided(made) if decision.model in changes.models]
    reviews = recorder.reviews(made, changes.models)
    writes = recorder.writes(made, done, reviews, changes.writes)
    if changes.writes or writes:
        await state.commit([*changes.writes, *writes], [])
    recorder.written(made, done, reviews)
    return writes


def stored(state: State, made: Recording) -> types_pb2.RecordedStep | None:
    return state.steps.get(f"{round(made.observation.now_s * 1e3):015d}")


def keys_of(writes: Sequence[Put | Delete], table: str) -> list[str]:
    return [write.key for write in writes if write.key.startswith(f"paldia/v1/{table}/")]


async def test_what_changes_a_plan_is_kept_and_comes_out_the_same_again(state: State) -> None:
    recorder, otherwise = Recorder(state), 0
    for made in eventful():
        await carry_out(state, recorder, made)
        before, after = made.observation.plan, made.outcome.plan
        changed = {
            d.model: d for d in made.outcome.decisions if after[d.model] != before.get(d.model)
        }
        for name, decision in changed.items():
            found = record_at(state, name, made.observation.now_s, with_step=True)
            assert found.decision == decision_to_proto(decision, made.outcome.memory[name])
            assert found.unchanged is (decision.action is Action.KEEP)
            otherwise += found.unchanged
            back = recording.unpacked(found.step)
            assert back.run_again() == back.outcome == made.outcome
    assert len(state.steps.rows) > 5
    # Such as when a place that was left has nothing more to do.
    assert otherwise


async def test_the_record_in_force_is_the_newest_until_then(state: State) -> None:
    recorder = Recorder(state)
    for made in eventful():
        await carry_out(state, recorder, made)
    moves = [(made, d) for made in eventful() for d in decided(made) if d.model == "m"]
    (first, before), (second, after) = moves[0], moves[1]
    at_s = second.observation.now_s - 0.5
    found = record_at(state, "m", at_s, with_step=True)
    if found.unchanged:
        assert found.decision.action == "keep"
        assert list(found.decision.to_node_ids) == [a.node_id for a in before.after]
    else:
        assert found.decision == decision_to_proto(before, first.outcome.memory["m"])
    found = record_at(state, "m", second.observation.now_s + 1e-4, with_step=True)
    assert found.decision == decision_to_proto(after, second.outcome.memory["m"])
    assert recording.unpacked(found.step) == second
    assert not found.unchanged
    assert not record_at(state, "m", at_s, with_step=False).HasField("step")
    newest = record_at(state, "m", None, with_step=False).decision
    assert newest == record_at(state, "m", 1e11, with_step=False).decision


async def test_before_the_oldest_record_the_oldest_is_named(state: State) -> None:
    with pytest.raises(NotFoundError, match="nothing has been decided on 'm' yet"):
        record_at(state, "m", None, with_step=False)
    await carry_out(state, Recorder(state), eventful()[0])
    with pytest.raises(NotFoundError, match=r"the oldest that is kept is of 2026-09-21T14:13:21"):
        record_at(state, "m", eventful()[0].observation.now_s - 1, with_step=False)
    with pytest.raises(NotFoundError, match="the oldest"):
        record_at(state, "m", -5.0, with_step=False)


async def test_a_model_that_stays_is_reviewed_now_and_then(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "REVIEW_EVERY_S", 40.0)
    planner, recorder = Planner(), Recorder(state)
    for _ in range(100):
        await carry_out(state, recorder, planner.step({"m": 10}))
    placed_ms = int(next(key for key in state.decisions.rows if key[0] == "m").rpartition("/")[2])
    reviewed_ms = [int(key.rpartition("/")[2]) for key in state.reviews.rows if key[0] == "m"]
    gaps_s = [(b - a) / 1e3 for a, b in pairwise([placed_ms, *sorted(reviewed_ms)])]
    # It is judged every few seconds only, and not until then.
    assert len(gaps_s) == 2
    assert all(40 <= gap_s <= 40 + planner.config.review_s for gap_s in gaps_s)
    found = record_at(state, "m", planner.now_s, with_step=True)
    assert found.unchanged
    assert found.decision.action == "keep"
    back = recording.unpacked(found.step)
    assert back.run_again() == back.outcome


async def test_reviews_alone_have_no_step_kept_more_often_than_the_gap(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "REVIEW_EVERY_S", 1.0)
    planner, recorder, reviewed_s = Planner(), Recorder(state), []
    for _ in range(60):
        made = planner.step({"m": 10})
        if recorder.reviews(made, ()) and made.outcome.plan == made.observation.plan:
            reviewed_s.append(made.observation.now_s)
        await carry_out(state, recorder, made)
    assert len(reviewed_s) >= 4
    assert all(b - a >= records.REVIEW_GAP_S for a, b in pairwise(reviewed_s))


async def test_a_new_recorder_goes_on_where_the_one_before_was(state: State) -> None:
    planner, recorder = Planner(), Recorder(state)
    for _ in range(4):
        await carry_out(state, recorder, planner.step({"m": 10}))
    made = planner.step({"m": 100})
    kept = [
        d.model
        for d in made.outcome.decisions
        if made.outcome.plan[d.model] == made.observation.plan.get(d.model)
    ]
    unaware, aware = Recorder(state), Recorder(state)
    aware.restore()
    assert {d.model for d in unaware.reviews(made, ())} == set(kept)
    assert aware.reviews(made, ()) == ()


async def test_a_clock_that_was_set_back_holds_up_no_review(state: State) -> None:
    planner, recorder = Planner(), Recorder(state)
    planner.now_s += 86_400
    for _ in range(20):
        await carry_out(state, recorder, planner.step({"m": 10}))
    planner.now_s -= 86_400
    made = [planner.step({"m": 10}) for _ in range(5)]
    assert any(recorder.reviews(one, ()) for one in made)


async def test_steps_are_bounded_in_number(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "STEPS_KEPT", 3)
    recorder = Recorder(state)
    recorded = []
    for made in eventful():
        await carry_out(state, recorder, made)
        assert len(state.steps.rows) <= 3
        recorded += [made] if stored(state, made) else []
    assert [bool(stored(state, made)) for made in recorded[-4:]] == [False, True, True, True]
    forgotten = record_at(state, "m", recorded[0].observation.now_s + 0.1, with_step=True)
    with pytest.raises(NotServableError, match="only the newest"):
        recording.unpacked(forgotten.step)


async def test_steps_are_bounded_in_bytes(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(state)
    largest = max(recording.packed(made).ByteSize() for made in eventful())
    monkeypatch.setattr(records, "STEPS_LIMIT_BYTES", 2 * largest)
    for made in eventful():
        await carry_out(state, recorder, made)
        sizes = [row.message.ByteSize() for row in state.steps.rows.values()]
        assert sum(sizes) <= 2 * largest
    assert len(state.steps.rows) >= 2


async def test_one_large_step_makes_room_bit_by_bit(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "STEPS_KEPT", 1)
    old = [state.steps.put(f"{n:015d}", types_pb2.RecordedStep(version="1")) for n in range(20)]
    await state.commit(old, [])
    recorder, left = Recorder(state), []
    for made in eventful()[:25]:
        writes = await carry_out(state, recorder, made)
        assert len(keys_of(writes, "steps")) <= 1 + records.FORGOTTEN_AT_ONCE
        left += [len(state.steps.rows)] if writes else []
    assert left[:3] == [13, 6, 1]


async def test_reviews_are_bounded_in_number(state: State) -> None:
    planner, recorder = Planner(), Recorder(state)
    for _ in range(records.REVIEWS_KEPT + 3):
        made = planner.step({"m": 10})
        while not any(d.model == "m" for d in made.outcome.decisions):
            made = planner.step({"m": 10})
        await carry_out(state, recorder, made)
        planner.now_s += records.REVIEW_EVERY_S
    assert len([key for key in state.reviews.rows if key.startswith("m/")]) == records.REVIEWS_KEPT


async def test_so_many_models_are_reviewed_in_one_step(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "REVIEWS_LIMIT", 1)
    planner = Planner()
    planner.step({"m": 10, "idle": 1})
    for _ in range(3):
        made = planner.step({"m": 10, "idle": 1})
    assert len(made.outcome.decisions) == 2
    assert len(Recorder(state).reviews(made, ())) == 1


async def test_a_removed_model_takes_its_records_along(state: State) -> None:
    recorder = Recorder(state)
    for made in eventful():
        await carry_out(state, recorder, made)
    last = eventful()[-1]
    gone = replace(last.outcome, plan={}, memory={}, decisions=())
    changes = plan_changes(state, last.observation.plan, gone)
    await state.commit(changes.writes, [])
    assert not state.reviews.rows
    assert not state.decisions.rows


def beside(writes: int, size_bytes: int) -> list[Put]:
    """Give so many writes that take so much together."""
    each, rest = divmod(size_bytes, writes)
    return [Put(f"{n:03d}", bytes(each - 3 + (rest if n == 0 else 0))) for n in range(writes)]


SIZE_BYTES = recording.packed(eventful()[-1]).ByteSize()
KEYS_BYTES = 1024


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        (beside(1, 1000), True),
        (beside(COMMIT_LIMIT_WRITES - records.RECORD_WRITES, 1000), True),
        (beside(2, COMMIT_LIMIT_BYTES - SIZE_BYTES - KEYS_BYTES), True),
        (beside(2, COMMIT_LIMIT_BYTES - SIZE_BYTES - KEYS_BYTES + 1), False),
        (beside(2, COMMIT_LIMIT_BYTES - KEYS_BYTES), False),
    ],
)
async def test_a_step_is_kept_only_if_the_commit_has_room(
    state: State, others: list[Put], kept: bool
) -> None:
    writes = Recorder(state).writes(eventful()[-1], ["m"], (), others)
    check_commit([*others, *writes], [])
    (put,) = [write for write in writes if isinstance(write, Put)]
    step = types_pb2.RecordedStep.FromString(put.value)
    assert bool(step.content) is kept
    assert ("there was room for" in step.not_kept) is not kept


async def test_a_full_commit_leaves_the_records_out(state: State) -> None:
    full = beside(COMMIT_LIMIT_WRITES, 1000)
    assert Recorder(state).writes(eventful()[-1], ["m"], (), full) == []


async def test_what_cannot_be_written_down_is_carried_out_and_told(state: State) -> None:
    made = eventful()[-1]
    strange = replace(made, outcome=replace(made.outcome, alarm=7))  # type: ignore[arg-type]
    (write,) = Recorder(state).writes(strange, ["m"], (), [])
    assert isinstance(write, Put)
    assert "str expected" in types_pb2.RecordedStep.FromString(write.value).not_kept


async def test_a_step_that_decides_nothing_is_not_recorded(state: State) -> None:
    assert Recorder(state).writes(eventful()[-1], (), (), []) == []


async def _asked(cluster: Any, **options: Any) -> Any:
    request = control_pb2.GetDecisionRequest(name="m", with_step=True, **options)
    return await cluster.call("GetDecision", request)


async def test_a_decision_is_run_again_over_the_wire_also_after_a_kill(
    cluster: Any, controller: Any, slow: Any, fast: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, fast, frontend)
    await cluster.deploy()
    await cluster.ready()
    await until(lambda: frontend.routes.get("m"), "a route")
    frontend.rate["m"] = 60.0

    async def moved() -> Any:
        answer = await cluster.call("ExplainModel", control_pb2.ExplainModelRequest(name="m"))
        return answer if answer.decisions[0].action == "move" else None

    moving = (await until(moved, "it moves")).decisions[0]
    assert controller.stop(signal.SIGKILL) != 0
    controller.start()
    found = await _asked(cluster, at=moving.decided_at)
    assert found.decision == moving
    assert not found.unchanged
    assert moving.demand.held_requests_per_second > 0
    made = recording.unpacked(found.step)
    assert made.run_again() == made.outcome
    (mine,) = [decision for decision in made.outcome.decisions if decision.model == "m"]
    assert decision_to_proto(mine, made.outcome.memory["m"]) == moving
    assert made.memory["m"].last_used_s <= time.time()
