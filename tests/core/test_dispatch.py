"""The dispatch kernel: examples for each rule, then all rules at once on random histories."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paldia.core.dispatch.finish import Places, finish_s
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.lanes import SUSPENSION_S, Lane, LaneState, linear_slowdowns
from paldia.core.dispatch.model import LATE_TURN
from paldia.core.dispatch.requests import Request, Stay
from paldia.core.dispatch.timers import Timers
from paldia.core.dispatch.types import (
    Decision,
    Dispatch,
    Expire,
    Fail,
    FailCause,
    Limits,
    ModelPlan,
    Refuse,
    RefuseCause,
    Retry,
)
from paldia.core.errors import NotFoundError
from paldia.core.types import OverloadPolicy, Slo

SLO = Slo(latency_s=1.0)


def lane(
    name: str = "a",
    count: int = 1,
    batch: int = 4,
    points: tuple[tuple[int, float], ...] = ((1, 0.1), (4, 0.1)),
    slowdown: float = 1.0,
    node: str | None = None,
) -> Lane:
    return Lane(
        name, node or f"node-{name}", count, batch, points, linear_slowdowns(count, slowdown)
    )


def kernel_with(*lanes: Lane, limits: Limits | None = None, **plan: object) -> DispatchKernel:
    kernel = DispatchKernel(limits)
    kernel.plan("m", ModelPlan(lanes, SLO, **plan), 0.0)  # type: ignore[arg-type]
    return kernel


def ask(
    kernel: DispatchKernel, request_id: int, at_s: float = 0.0, rows: int = 1, **more: object
) -> None:
    more = {"like_key": "k", **more}
    kernel.arrive(Request(request_id, "m", rows, at_s, **more))  # type: ignore[arg-type]


def batches(decisions: list[Decision]) -> list[tuple[str, tuple[int, ...]]]:
    assert all(isinstance(decision, Dispatch) for decision in decisions), decisions
    return [(d.lane_id, d.request_ids) for d in decisions if isinstance(d, Dispatch)]


# Predictions.


def test_latency_is_linear_between_points_and_beyond_the_last():
    measured = lane(points=((1, 0.010), (2, 0.012), (4, 0.020)))
    assert [measured.latency_s(rows) for rows in (1, 2, 3, 4, 8)] == pytest.approx(
        [0.010, 0.012, 0.016, 0.020, 0.036]
    )
    assert lane(points=((4, 0.5),)).latency_s(1) == 0.5
    assert lane(points=()).latency_s(3) == 0.0


def test_slowdown_grows_with_the_lanes_in_use():
    shared = lane(count=3, slowdown=2.0)
    assert [shared.slowdown_of(running) for running in (0, 1, 2, 3)] == [1.0, 1.0, 1.5, 2.0]


def test_prediction_starts_from_the_lanes_as_they_stand():
    # Half of a 1 s batch is left. Beside it everything takes twice as long: its 0.5 s of work
    # lasts 1 s, in which the newcomer does 0.5 s of its own, and then the rest alone.
    state = LaneState(lane(count=2, points=((1, 1.0),), slowdown=2.0))
    state.start(1, 1, now_s=0.0)
    assert state.predict_s(1, now_s=0.5) == pytest.approx(2.0)


def test_overdue_batch_promises_no_place():
    state = LaneState(lane(points=((1, 1.0),)))
    state.start(1, 1, now_s=0.0)
    assert list(state.places_s(0.9)) == pytest.approx([1.0])
    assert not state.places_s(1.0 - 1e-9), "rounding is no promise"
    assert not state.places_s(1.0)


def test_batch_that_ends_early_promises_no_place_any_more():
    state = LaneState(lane(count=2, points=((1, 1.0),)))
    state.start(1, 1, now_s=0.0)
    state.start(2, 1, now_s=0.5)
    assert list(state.places_s(0.5)) == pytest.approx([1.0, 1.5])
    state.end(1, now_s=0.6)
    assert list(state.places_s(0.6)) == pytest.approx([1.5])


@pytest.mark.parametrize(("running", "until_s"), [(0, 0.5), (1, 0.5), (2, 1.0)])
def test_places_are_the_same_for_some_time_only_if_all_are_taken(running: int, until_s: float):
    state = LaneState(lane(count=2, points=((1, 1.0),)))
    for batch_id in range(running):
        state.start(batch_id, 1, now_s=0.0)
    assert state.steady_until_s(0.5) == pytest.approx(until_s, abs=1e-5)
    assert state.steady_until_s(2.0) == 2.0, "all are overdue"


def test_shrunk_lane_promises_no_more_places_than_it_has():
    state = LaneState(lane(count=2, points=((1, 1.0),)))
    state.start(1, 1, now_s=0.0)
    state.start(2, 1, now_s=0.5)
    state.change(lane(count=1, points=((1, 1.0),)), now_s=0.5)
    assert list(state.places_s(0.5)) == pytest.approx([1.5])


def greedy_finish_s(places: list[Places], rows: int) -> float:
    """Batch by batch to whichever place is done first."""
    free_at = [(at_s, each) for each in places for at_s in each.free_at_s]
    last_s = 0.0
    while rows > 0:
        done_s, index = min(
            (at_s + each.latency_s(min(rows, each.limit)), i)
            for i, (at_s, each) in enumerate(free_at)
        )
        each = free_at[index][1]
        rows -= each.limit
        free_at[index] = (done_s, each)
        last_s = max(last_s, done_s)
    return last_s


def longest_s(places: list[Places]) -> float:
    return max(each.latency_s(each.limit) for each in places)


place_lists = st.lists(
    st.builds(
        lambda at, limit, fixed, per_row: Places(
            lane(batch=8, points=((1, fixed + per_row), (2, fixed + 2 * per_row))),
            1.0,
            limit,
            sorted(at),
        ),
        st.lists(st.floats(0, 2), min_size=1, max_size=3),
        st.integers(1, 8),
        st.floats(0.01, 1),
        st.floats(0, 0.2),
    ),
    min_size=1,
    max_size=3,
)


@given(place_lists, st.integers(1, 200))
def test_finish_agrees_with_working_it_off_batch_by_batch(places: list[Places], rows: int):
    exact_s = greedy_finish_s(places, rows)
    assert finish_s(places, rows) == pytest.approx(exact_s, abs=longest_s(places))


@given(st.lists(st.floats(0, 2), min_size=1, max_size=6), st.integers(1, 8), st.integers(1, 100))
def test_finish_is_exact_for_one_lane(at_s: list[float], limit: int, rows: int):
    places = [Places(lane(batch=limit, points=((1, 0.3), (2, 0.4))), 1.0, limit, sorted(at_s))]
    assert finish_s(places, rows) == pytest.approx(greedy_finish_s(places, rows))


@given(place_lists, st.integers(1, 100))
def test_finish_grows_with_rows(places: list[Places], rows: int):
    assert finish_s(places, rows + 1) >= finish_s(places, rows) - longest_s(places)
    assert finish_s([], rows) == math.inf


# Batches.


def test_first_request_starts_at_once_and_the_next_form_a_batch():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    (first,) = kernel.poll(0.0)
    assert isinstance(first, Dispatch)
    for request_id in (2, 3, 4, 5, 6):
        ask(kernel, request_id, 0.01)
        assert kernel.poll(0.01) == []
    kernel.complete(first.batch_id, 0.1)
    assert batches(kernel.poll(0.1)) == [("a", (2, 3, 4, 5))]


def test_only_like_requests_share_a_batch():
    kernel = kernel_with(lane(count=4))
    for request_id, key in enumerate(["x", "y", "x", None, None, "y"]):
        ask(kernel, request_id, like_key=key)
    assert [ids for _, ids in batches(kernel.poll(0.0))] == [(0, 2), (1, 5), (3,), (4,)]


def test_rows_and_bytes_bound_a_batch():
    kernel = kernel_with(lane(count=3), limits=Limits(batch_bytes=100))
    ask(kernel, 1, rows=3)
    ask(kernel, 2, rows=2)
    ask(kernel, 3, rows=1, size_bytes=60)
    ask(kernel, 4, rows=1, size_bytes=60)
    assert [ids for _, ids in batches(kernel.poll(0.0))] == [(1,), (2, 3), (4,)]


def test_request_over_the_lane_limit_runs_alone():
    kernel = kernel_with(lane(count=2, batch=2))
    ask(kernel, 1, rows=4)
    ask(kernel, 2)
    assert [ids for _, ids in batches(kernel.poll(0.0))] == [(1,), (2,)]


def test_order_is_priority_then_deadline_then_arrival():
    kernel = kernel_with(lane(count=6, batch=1))
    ask(kernel, 1, 0.00)
    ask(kernel, 2, 0.01)
    ask(kernel, 3, 0.02, deadline_s=0.5)
    ask(kernel, 4, 0.03, priority=2)
    ask(kernel, 5, 0.04, priority=1)
    ask(kernel, 6, 0.05, priority=10**9)
    assert [ids for _, ids in batches(kernel.poll(0.1))] == [(5,), (3,), (1,), (2,), (4,), (6,)]


@pytest.mark.parametrize("priority", [-5, 2, 8, 2**64])
def test_no_priority_passes_for_more_than_it_is(priority: int):
    kernel = kernel_with(lane(count=2, batch=1), on_overload=OverloadPolicy.SHED)
    ask(kernel, 1, priority=priority)
    ask(kernel, 2)
    assert [ids for _, ids in batches(kernel.poll(0.0))] == [(2,), (1,)]


def test_batch_goes_to_the_lane_that_is_done_first():
    kernel = kernel_with(lane("slow", points=((1, 0.5),)), lane("fast", points=((1, 0.1),)))
    ask(kernel, 1, like_key=None)
    ask(kernel, 2, like_key=None)
    ask(kernel, 3, like_key=None)
    # Waiting for the fast lane beats the slow one, twice.
    assert batches(kernel.poll(0.0)) == [("fast", (1,))]


def test_equal_lanes_are_filled_evenly():
    kernel = kernel_with(lane("a", count=2), lane("b", count=2))
    for request_id in range(4):
        ask(kernel, request_id, like_key=None)
    assert [name for name, _ in batches(kernel.poll(0.0))] == ["a", "b", "a", "b"]


def test_without_latencies_every_free_lane_is_used():
    kernel = kernel_with(lane("a", points=()), lane("b", points=()))
    ask(kernel, 1, like_key=None)
    ask(kernel, 2, like_key=None)
    assert [name for name, _ in batches(kernel.poll(0.0))] == ["a", "b"]


# Now or later.


@pytest.mark.parametrize(
    ("slowdown", "starts"),
    [(1.0, True), (1.9, True), (2.2, False)],
    ids=["no interference", "sharing gains", "sharing loses"],
)
def test_second_lane_is_used_only_if_sharing_gains(slowdown: float, starts: bool):
    kernel = kernel_with(lane(count=2, points=((1, 1.0),), slowdown=slowdown))
    ask(kernel, 1, like_key=None)
    kernel.poll(0.0)
    ask(kernel, 2, 0.5, like_key=None)
    assert bool(kernel.poll(0.5)) is starts


@pytest.mark.parametrize("queued", [1, 8])
def test_long_queue_does_not_hide_that_sharing_loses(queued: int):
    kernel = kernel_with(lane(count=2, batch=1, points=((1, 1.0),), slowdown=2.2))
    ask(kernel, 0)
    kernel.poll(0.0)
    for request_id in range(1, queued + 1):
        ask(kernel, request_id, 0.5)
    assert kernel.poll(0.5) == []


def test_batch_that_is_soon_done_does_not_hide_what_it_costs_the_rest():
    kernel = kernel_with(lane(count=2, batch=8, points=((1, 0.1), (8, 8.0)), slowdown=3.0))
    ask(kernel, 1, rows=8)
    kernel.poll(0.0)
    ask(kernel, 2, like_key=None)
    ask(kernel, 3, rows=8)
    # The small one would be done long before the lane is free, and slow down all the others.
    assert kernel.poll(0.0) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(2, 4), st.integers(2, 40), st.floats(1.0, 4.0))
def test_long_queue_is_worked_off_by_as_many_batches_at_once_as_get_most_done(
    count: int, full_batches: int, slowdown: float
):
    rates = [running / (1 + (slowdown - 1) * (running - 1)) for running in range(1, count + 1)]
    # Where one more gains or costs little, either is right.
    if any(abs(more / less - 1) < 0.2 for less, more in itertools.pairwise(rates)):
        return
    one = lane(count=count, batch=4, points=((4, 1.0),))
    kernel = kernel_with(
        replace(one, slowdowns=linear_slowdowns(count, 1 + (slowdown - 1) * (count - 1)))
    )
    for request_id in range(4 * count * full_batches):
        ask(kernel, request_id)
    assert len(batches(kernel.poll(0.0))) == 1 + rates.index(max(rates))


@pytest.mark.parametrize(("queued", "uses_slow"), [(1, False), (8, False), (10, True)])
def test_slow_lane_is_used_once_the_queue_for_the_fast_one_is_longer(queued: int, uses_slow: bool):
    kernel = kernel_with(
        lane("fast", batch=1, points=((1, 0.1),)), lane("slow", batch=1, points=((1, 1.0),))
    )
    ask(kernel, 0)
    assert batches(kernel.poll(0.0)) == [("fast", (0,))]
    for request_id in range(1, queued + 1):
        ask(kernel, request_id, 0.0)
    assert batches(kernel.poll(0.0)) == ([("slow", (1,))] if uses_slow else [])


def test_waiting_ends_when_the_awaited_lane_is_late():
    kernel = kernel_with(lane("fast", points=((1, 0.1),)), lane("slow", points=((1, 1.0),)))
    ask(kernel, 1, like_key=None)
    kernel.poll(0.0)
    ask(kernel, 2, 0.05, like_key=None)
    assert kernel.poll(0.05) == []
    wakeup_s = kernel.next_wakeup_s()
    assert wakeup_s == pytest.approx(0.1)
    assert batches(kernel.poll(wakeup_s)) == [("slow", (2,))]


# Those who are late.


def overloaded(lane_: Lane, late: int, in_time: int, *, late_yields: bool = True) -> DispatchKernel:
    """Give a kernel whose only lane is free again after 1.5 s; 1, 2, ... wait since the start."""
    kernel = DispatchKernel()
    kernel.plan("m", ModelPlan((lane_,), SLO, late_yields=late_yields), 0.0)
    ask(kernel, 0, like_key=None)
    first = dispatched(kernel, 0.0)
    for request_id in range(1, late + 1):
        ask(kernel, request_id, 0.1)
    for request_id in range(late + 1, late + in_time + 1):
        ask(kernel, request_id, 1.4)
    assert kernel.poll(1.4) == []
    kernel.complete(first.batch_id, 1.5)
    return kernel


@pytest.mark.parametrize(("late_yields", "ids"), [(True, (2,)), (False, (1,))])
def test_who_is_late_lets_pass_who_is_not(late_yields: bool, ids: tuple[int, ...]):
    kernel = overloaded(lane(batch=1), late=1, in_time=1, late_yields=late_yields)
    assert dispatched(kernel, 1.5).request_ids == ids


def test_who_would_be_late_with_this_very_batch_is_late_already():
    kernel = kernel_with(lane(batch=1, points=((1, 0.4),)))
    ask(kernel, 1, 0.0)
    first = dispatched(kernel, 0.0)
    ask(kernel, 2, 0.0)
    ask(kernel, 3, 0.5)
    kernel.complete(first.batch_id, 0.7)
    assert dispatched(kernel, 0.7).request_ids == (3,)


def test_late_ones_are_served_in_their_order_once_nobody_else_waits():
    kernel = overloaded(lane(batch=1), late=2, in_time=1)
    served = []
    for now_s in (1.5, 1.6, 1.7):
        batch = dispatched(kernel, now_s)
        served += batch.request_ids
        kernel.complete(batch.batch_id, now_s + 0.1)
    assert served == [3, 1, 2]


def test_late_ones_get_a_turn_however_many_come_after_them():
    kernel = overloaded(lane(batch=1, points=((1, 0.001),)), late=1, in_time=LATE_TURN + 3)
    served, now_s = [], 1.5
    while 1 not in served:
        batch = dispatched(kernel, now_s)
        served += batch.request_ids
        now_s += 0.001
        kernel.complete(batch.batch_id, now_s)
    assert len(served) <= LATE_TURN + 1


def test_late_ones_take_batches_that_hold_up_others_for_a_short_time_only():
    measured = lane(batch=8, points=((1, 0.1), (8, 0.8)))
    # 8 rows take 0.8 s and 4 rows 0.4 s, which is more than a third of the SLO.
    assert dispatched(overloaded(measured, late=7, in_time=0), 1.5).rows == 2


# Refusal, expiry and limits.


def test_shed_model_refuses_what_would_miss_the_slo():
    kernel = kernel_with(lane(batch=1, points=((1, 0.4),)), on_overload=OverloadPolicy.SHED)
    for request_id in range(4):
        ask(kernel, request_id)
        kernel.poll(0.0)
    # Two fit into 1 s; the third would be done after 1.2 s.
    assert kernel.counters["m"].refused == 2
    ask(kernel, 9)
    (refusal,) = kernel.poll(0.0)
    assert refusal == Refuse(9, RefuseCause.SLO, pytest.approx(0.2))


def test_shed_model_foresees_a_batch_for_each_that_can_share_none():
    measured = lane(batch=8, points=((1, 0.3), (8, 0.4)))
    kernel = kernel_with(measured, on_overload=OverloadPolicy.SHED)
    for request_id in range(5):
        ask(kernel, request_id, like_key=None)
        kernel.poll(0.0)
    assert kernel.counters["m"].refused == 2, "the fourth would be done after 1.2 s"
    # With them it would take 0.4 s, but for itself it takes another turn.
    ask(kernel, 9, 0.05)
    assert kernel.counters["m"].refused == 3


@pytest.mark.parametrize(("like_key", "refused"), [("k", 2), ("other", 0)])
def test_shed_model_refuses_nobody_for_the_sake_of_those_unlike_it(like_key: str, refused: int):
    measured = lane(points=((1, 0.1), (4, 0.4)))
    kernel = kernel_with(measured, on_overload=OverloadPolicy.SHED)
    ask(kernel, 0)
    kernel.poll(0.0)
    ask(kernel, 1, 0.01, deadline_s=0.31)
    # A batch of both would take 0.3 s from 0.1 s on, and the first gives up at 0.31 s.
    ask(kernel, 2, 0.02, rows=2, like_key=like_key)
    assert kernel.counters["m"].refused == refused


def test_urgent_request_is_not_refused_for_those_behind_it():
    kernel = kernel_with(lane(batch=1, points=((1, 0.4),)), on_overload=OverloadPolicy.SHED)
    ask(kernel, 1)
    kernel.poll(0.0)
    ask(kernel, 2)
    ask(kernel, 3, priority=1)
    assert kernel.poll(0.0) == []
    assert kernel.counters["m"].refused == 0


def test_idle_lane_is_not_taken_for_a_crowded_one():
    kernel = kernel_with(
        lane(count=2, points=((1, 0.8),), slowdown=2.0), on_overload=OverloadPolicy.SHED
    )
    ask(kernel, 1)
    assert batches(kernel.poll(0.0)) == [("a", (1,))]


@pytest.mark.parametrize(
    "plan",
    [
        {"on_overload": OverloadPolicy.QUEUE},
        {"on_overload": OverloadPolicy.SHED, "slo_unreachable": True},
    ],
)
def test_nothing_is_refused_for_the_slo_unless_it_sheds_and_could_meet_it(plan: dict):
    kernel = kernel_with(lane(batch=1, points=((1, 5.0),)), **plan)
    for request_id in range(20):
        ask(kernel, request_id)
    assert batches(kernel.poll(0.0)) == [("a", (0,))]


def test_where_the_load_alone_puts_the_slo_out_of_reach_it_goes_on_shedding():
    kernel = kernel_with(
        lane(batch=1, points=((1, 0.3),)), on_overload=OverloadPolicy.SHED, slo_unreachable=True
    )
    for request_id in range(20):
        ask(kernel, request_id)
    decisions = kernel.poll(0.0)
    refused = [it.request_id for it in decisions if isinstance(it, Refuse)]
    in_time = int(SLO.latency_s / 0.3)
    assert refused == [*range(in_time, 20)]


def test_cold_model_never_refuses_on_the_slo():
    kernel = kernel_with(on_overload=OverloadPolicy.SHED)
    ask(kernel, 1)
    assert kernel.poll(0.0) == []


def test_model_that_turned_cold_refuses_nobody_for_those_who_are_late():
    kernel = kernel_with(lane(), on_overload=OverloadPolicy.SHED)
    ask(kernel, 1)
    batch = dispatched(kernel, 0.0)
    ask(kernel, 2)
    kernel.plan("m", ModelPlan((), SLO, OverloadPolicy.SHED), 2.0)
    # The lane is still there, for its batch, but it will take no other.
    ask(kernel, 3, 2.0)
    assert kernel.poll(2.0) == []
    kernel.complete(batch.batch_id, 2.1)
    kernel.plan("m", ModelPlan((lane(),), SLO, OverloadPolicy.SHED), 2.1)
    assert [ids for _, ids in batches(kernel.poll(2.1))] == [(3,)]


def test_lane_that_is_on_its_way_out_is_no_batch_to_share():
    kernel = kernel_with(lane("a", batch=8), on_overload=OverloadPolicy.SHED)
    ask(kernel, 1)
    dispatched(kernel, 0.0)
    one_by_one = lane("b", batch=1, points=((1, 0.3),))
    kernel.plan("m", ModelPlan((one_by_one,), SLO, OverloadPolicy.SHED), 0.5)
    ask(kernel, 2, 0.5)
    assert dispatched(kernel, 0.5).lane_id == "b"
    # Done after 1.1 s, in time for its caller; the next after 1.4 s, and in time as well.
    ask(kernel, 3, 0.55, deadline_s=1.2)
    ask(kernel, 4, 0.56)
    assert kernel.poll(0.56) == []


def test_full_queue_tells_anew_when_to_try_again_once_something_has_happened():
    kernel = kernel_with(
        lane(batch=1, points=((1, 1.0),)), limits=Limits(requests_per_model=2), late_yields=False
    )
    waits_s = []
    for step in range(2):
        for request_id in range(4 * step, 4 * step + 4):
            ask(kernel, request_id, 0.5 * step)
            decisions = kernel.poll(0.5 * step)
        (refusal,) = decisions
        assert isinstance(refusal, Refuse)
        waits_s.append(refusal.retry_after_s)
        if step == 0:
            kernel.complete(1, 0.5)
            dispatched(kernel, 0.5)
    # Both times one runs, two wait, and it would be the fourth to be done.
    assert waits_s == pytest.approx([4.0, 4.0])


def test_nobody_is_refused_for_the_slo_while_every_lane_is_suspended():
    kernel = kernel_with(lane(), on_overload=OverloadPolicy.SHED)
    ask(kernel, 1)
    batch = dispatched(kernel, 0.0)
    ask(kernel, 2)
    kernel.fail(batch.batch_id, 2.0, Retry.ELSEWHERE)
    ask(kernel, 3, 2.0 + SUSPENSION_S / 2)
    assert kernel.poll(2.0 + SUSPENSION_S / 2) == []
    assert kernel.counters["m"].refused == 0


@pytest.mark.parametrize(
    "limits",
    [
        Limits(requests_per_model=2),
        Limits(requests_in_all=2),
        Limits(bytes_per_model=25),
        Limits(bytes_in_all=25),
    ],
)
def test_full_queue_refuses(limits: Limits):
    kernel = kernel_with(limits=limits)
    for request_id in range(4):
        ask(kernel, request_id, size_bytes=10)
    decisions = kernel.poll(0.0)
    assert [(d.request_id, d.cause) for d in decisions if isinstance(d, Refuse)] == [
        (2, RefuseCause.QUEUE_FULL),
        (3, RefuseCause.QUEUE_FULL),
    ]
    assert len(decisions) == 2
    assert kernel.cancel(0, 0.0) is None
    ask(kernel, 5, size_bytes=10)
    assert kernel.poll(0.0) == []


def test_limit_in_all_counts_other_models():
    kernel = kernel_with(limits=Limits(requests_in_all=1))
    kernel.plan("n", ModelPlan((), SLO), 0.0)
    kernel.arrive(Request(1, "n", 1, 0.0))
    ask(kernel, 2)
    (refusal,) = kernel.poll(0.0)
    assert isinstance(refusal, Refuse)


def test_request_expires_at_its_callers_deadline():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    kernel.poll(0.0)
    ask(kernel, 2, deadline_s=0.05)
    kernel.poll(0.0)
    assert kernel.next_wakeup_s() == 0.05
    assert kernel.poll(0.05) == [Expire(2)]
    assert kernel.counters["m"].expired == 1
    assert kernel.next_wakeup_s() == math.inf


def test_request_for_a_cold_model_waits_and_is_served_once_there_is_a_lane():
    kernel = kernel_with(limits=Limits(cold_wait_s=5))
    ask(kernel, 1)
    assert kernel.poll(0.0) == []
    assert kernel.next_wakeup_s() == 5.0
    kernel.plan("m", ModelPlan((lane(),), SLO), 3.0)
    assert batches(kernel.poll(3.0)) == [("a", (1,))]
    assert kernel.next_wakeup_s() == math.inf


def test_cold_wait_ends():
    kernel = kernel_with(limits=Limits(cold_wait_s=5))
    ask(kernel, 1)
    ask(kernel, 2, 1.0, deadline_s=2.0)
    assert kernel.poll(2.0) == [Expire(2)]
    assert kernel.poll(5.0) == [Fail(1, FailCause.COLD)]
    assert kernel.counters["m"].failed == 1


def test_cold_wait_is_over_once_there_is_a_lane_even_if_it_is_busy():
    kernel = kernel_with(limits=Limits(cold_wait_s=5))
    ask(kernel, 1, like_key=None)
    ask(kernel, 2, like_key=None)
    kernel.plan("m", ModelPlan((lane(),), SLO), 3.0)
    dispatched(kernel, 3.0)
    ask(kernel, 3, 4.0, like_key=None, deadline_s=6.0)
    assert kernel.poll(5.0) == []
    assert kernel.poll(6.0) == [Expire(3)]


def test_cold_wait_starts_when_the_last_lane_goes():
    kernel = kernel_with(lane(), limits=Limits(cold_wait_s=5))
    ask(kernel, 1)
    kernel.poll(0.0)
    ask(kernel, 2, like_key=None)
    for at_s in (1.0, 2.0):
        kernel.plan("m", ModelPlan((lane(),), SLO), at_s)
        for _ in range(2):
            kernel.plan("m", ModelPlan((), SLO), at_s)
        assert kernel.next_wakeup_s() == at_s + 5
    assert kernel.poll(6.9) == []
    assert kernel.poll(7.0) == [Fail(2, FailCause.COLD)]


def test_unknown_model_is_an_error():
    with pytest.raises(NotFoundError, match="nope"):
        DispatchKernel().arrive(Request(1, "nope", 1, 0.0))


# Failure, cancellation and changes of plan.


def dispatched(kernel: DispatchKernel, now_s: float) -> Dispatch:
    (decision,) = kernel.poll(now_s)
    assert isinstance(decision, Dispatch)
    return decision


def test_failed_batch_is_tried_once_on_another_node():
    kernel = kernel_with(lane("a"), lane("b"))
    ask(kernel, 1)
    first = dispatched(kernel, 0.0)
    kernel.fail(first.batch_id, 0.1, Retry.ELSEWHERE)
    second = dispatched(kernel, 0.1)
    assert (first.lane_id, second.lane_id) == ("a", "b")
    kernel.fail(second.batch_id, 0.2, Retry.ELSEWHERE)
    assert kernel.poll(0.2) == [Fail(1, FailCause.BATCH)]
    assert kernel.counters["m"].failed == 1


def test_failed_batch_returns_to_its_node_if_there_is_no_other():
    kernel = kernel_with(lane("a"))
    ask(kernel, 1)
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.1, Retry.ELSEWHERE)
    assert kernel.poll(0.1) == []
    assert kernel.next_wakeup_s() == pytest.approx(0.1 + SUSPENSION_S)
    assert dispatched(kernel, 0.1 + SUSPENSION_S).request_ids == (1,)


def test_failed_batch_waits_for_another_node_without_holding_up_the_rest():
    kernel = kernel_with(lane("a"), lane("b", points=((1, 0.1),)))
    ask(kernel, 1)
    ask(kernel, 2, like_key="other")
    first, second = (d for d in kernel.poll(0.0) if isinstance(d, Dispatch))
    kernel.fail(first.batch_id, 0.0, Retry.ELSEWHERE)
    ask(kernel, 3, 0.0)
    assert kernel.poll(0.0) == []
    later_s = SUSPENSION_S + 0.1
    # Node a is tried again, with the request that didn't fail there.
    assert batches(kernel.poll(later_s)) == [("a", (3,))]
    kernel.complete(second.batch_id, later_s)
    assert batches(kernel.poll(later_s)) == [("b", (1,))]


def test_suspended_lane_is_not_forgotten_after_an_earlier_wakeup():
    kernel = kernel_with(lane("a", count=2, points=((1, 0.1),), slowdown=9.0))
    ask(kernel, 1, like_key=None)
    first = dispatched(kernel, 0.0)
    ask(kernel, 2, like_key=None)
    assert kernel.poll(0.01) == []
    kernel.fail(first.batch_id, 0.02, Retry.ELSEWHERE)
    now_s = 0.02
    while not (decisions := kernel.poll(now_s)):
        now_s = kernel.next_wakeup_s()
    assert now_s == pytest.approx(0.02 + SUSPENSION_S)
    assert batches(decisions) == [("a", (1,))]


def test_lane_is_used_when_its_suspension_ends_though_another_is_awaited_for_longer():
    kernel = kernel_with(
        lane("long", count=2, points=((1, 9.0),), slowdown=9.0), lane("short", points=((1, 0.1),))
    )
    ask(kernel, 1)
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.0, Retry.ELSEWHERE)
    # It goes to the other lane, where a second batch beside it would slow both too much.
    assert dispatched(kernel, 0.0).lane_id == "long"
    ask(kernel, 2)
    assert kernel.poll(0.0) == []
    assert kernel.next_wakeup_s() == pytest.approx(SUSPENSION_S)
    assert batches(kernel.poll(SUSPENSION_S)) == [("short", (2,))]


def test_success_ends_a_suspension():
    kernel = kernel_with(lane("a", count=2))
    ask(kernel, 1, like_key=None)
    ask(kernel, 2, like_key=None)
    first, second = (d for d in kernel.poll(0.0) if isinstance(d, Dispatch))
    kernel.fail(first.batch_id, 0.0, Retry.ELSEWHERE)
    assert kernel.poll(0.0) == []
    kernel.complete(second.batch_id, 0.1)
    assert batches(kernel.poll(0.1)) == [("a", (1,))]


def test_batch_that_fails_for_a_request_is_tried_one_by_one():
    kernel = kernel_with(lane(count=3))
    for request_id in (1, 2):
        ask(kernel, request_id)
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.1, Retry.ALONE)
    ask(kernel, 3, 0.1)
    first, second, third = kernel.poll(0.1)
    assert batches([first, second, third]) == [("a", (1,)), ("a", (2,)), ("a", (3,))]
    assert isinstance(first, Dispatch)
    kernel.fail(first.batch_id, 0.2, Retry.ALONE)
    assert kernel.poll(0.2) == [Fail(1, FailCause.BATCH)]


def test_failure_without_retry_is_final():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.1, Retry.NO)
    assert kernel.poll(0.1) == [Fail(1, FailCause.BATCH)]


def test_retried_request_still_expires():
    kernel = kernel_with(lane())
    ask(kernel, 1, deadline_s=0.3)
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.1, Retry.ELSEWHERE)
    assert kernel.poll(0.3) == [Expire(1)]


def test_cancelled_request_leaves_queue_or_batch():
    kernel = kernel_with(lane())
    for request_id in (1, 2):
        ask(kernel, request_id)
    batch = dispatched(kernel, 0.0)
    ask(kernel, 3)
    assert kernel.cancel(3, 0.0) is None
    assert kernel.cancel(1, 0.0) is None
    assert kernel.cancel(2, 0.0) == batch.batch_id
    assert kernel.cancel(2, 0.0) is None
    counters = kernel.counters["m"]
    assert (counters.backlog, counters.in_flight, counters.cancelled) == (0, 0, 3)
    ask(kernel, 4)
    assert kernel.poll(0.0) == []
    kernel.fail(batch.batch_id, 0.0, Retry.NO)
    assert batches(kernel.poll(0.0)) == [("a", (4,))]


def test_cancellation_after_the_deadline_is_an_expiry():
    kernel = kernel_with(lane())
    ask(kernel, 1, deadline_s=1.0)
    kernel.poll(0.0)
    kernel.cancel(1, 1.0)
    assert kernel.counters["m"].expired == 1


def test_pinned_request_goes_to_its_node_while_that_has_a_lane():
    kernel = kernel_with(lane("a"), lane("b", points=((1, 9.0),)))
    ask(kernel, 1, like_key=None, node_id="node-b")
    ask(kernel, 2, like_key=None, node_id="node-b")
    assert batches(kernel.poll(0.0)) == [("b", (1,))]
    kernel.plan("m", ModelPlan((lane("a"),), SLO), 0.1)
    assert batches(kernel.poll(0.1)) == [("a", (2,))]


def test_removed_model_fails_what_waits_and_lets_batches_end():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    batch = dispatched(kernel, 0.0)
    ask(kernel, 2)
    kernel.remove("m")
    assert kernel.poll(0.0) == [Fail(2, FailCause.REMOVED)]
    kernel.plan("m", ModelPlan((lane(),), SLO), 0.1)
    kernel.complete(batch.batch_id, 0.2)
    counters = kernel.counters["m"]
    assert (counters.offered, counters.answered_in_slo, counters.failed) == (2, 1, 1)


def test_batch_of_a_removed_model_that_fails_is_not_retried():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    batch = dispatched(kernel, 0.0)
    kernel.remove("m")
    kernel.fail(batch.batch_id, 0.1, Retry.ELSEWHERE)
    assert kernel.poll(0.1) == [Fail(1, FailCause.REMOVED)]


def test_shrunk_lane_starts_nothing_until_it_has_room():
    kernel = kernel_with(lane(count=2))
    for request_id in range(3):
        ask(kernel, request_id, like_key=None)
    first, second = (d for d in kernel.poll(0.0) if isinstance(d, Dispatch))
    kernel.plan("m", ModelPlan((lane(count=1),), SLO), 0.0)
    kernel.complete(first.batch_id, 0.1)
    assert kernel.poll(0.1) == []
    kernel.complete(second.batch_id, 0.1)
    assert batches(kernel.poll(0.1)) == [("a", (2,))]


def test_lane_that_comes_back_remembers_what_runs_on_it():
    kernel = kernel_with(lane("a"))
    ask(kernel, 1)
    kernel.poll(0.0)
    kernel.plan("m", ModelPlan((lane("b"),), SLO), 0.1)
    kernel.plan("m", ModelPlan((lane("a"),), SLO), 0.2)
    ask(kernel, 2, 0.2)
    assert kernel.poll(0.2) == []


def test_stale_reports_change_nothing():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    batch = dispatched(kernel, 0.0)
    kernel.complete(batch.batch_id, 0.1)
    before = replace(kernel.counters["m"])
    kernel.complete(batch.batch_id, 0.2)
    kernel.fail(batch.batch_id, 0.2, Retry.ELSEWHERE)
    assert kernel.cancel(1, 0.2) is None
    assert kernel.poll(0.2) == []
    assert kernel.counters["m"] == before


def test_answers_count_as_in_time_or_late_by_rows():
    kernel = kernel_with(lane(count=2))
    ask(kernel, 1, rows=3)
    ask(kernel, 2, rows=2)
    first, second = (d for d in kernel.poll(0.0) if isinstance(d, Dispatch))
    kernel.complete(first.batch_id, 1.0)
    kernel.complete(second.batch_id, 1.001)
    counters = kernel.counters["m"]
    assert (counters.offered, counters.answered_in_slo, counters.answered_late) == (5, 3, 2)
    assert counters.batches == 2


# Cost.


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9) | st.none()), max_size=300))
def test_timers_give_what_is_due_first_however_often_minds_are_changed(
    steps: list[tuple[int, int | None]],
):
    timers, until_s = Timers(), {}
    stays = [Stay.of(Request(i, "m", 1, 0.0), i, 1.0, (0.0,)) for i in range(41)]
    for which, at_s in steps:
        if at_s is None:
            timers.forget(stays[which])
            until_s.pop(which, None)
        else:
            timers.wait_until(stays[which], float(at_s))
            until_s[which] = float(at_s)
        assert timers.next_s == min(until_s.values(), default=math.inf)
    assert len(timers._heap) <= 2 * len(until_s) + 64
    expired = []
    while timers.next_s < math.inf:
        stay = timers.first()
        timers.forget(stay)
        expired.append(stay.first_id)
    assert expired == sorted(until_s, key=lambda which: (until_s[which], which))


def test_patience_counts_anew_whenever_the_lanes_come_and_go():
    kernel = kernel_with(limits=Limits(cold_wait_s=5))
    ask(kernel, 1, deadline_s=7.0)
    ask(kernel, 2)
    for plan in (ModelPlan((lane(count=1, batch=1),), SLO), ModelPlan((), SLO)) * 40:
        kernel.plan("m", plan, 0.0)
    kernel.cancel(1, 1.0)
    assert kernel.poll(5.0) == [Fail(2, FailCause.COLD)]
    assert kernel.next_wakeup_s() == math.inf


def test_large_batch_from_between_others_leaves_none_of_it_in_the_queue():
    kernel = kernel_with(lane(batch=100, points=((1, 0.1), (100, 0.1))))
    ask(kernel, 0)
    ask(kernel, 1, like_key="other")
    for request_id in range(2, 101):
        ask(kernel, request_id)
    served = []
    for now_s in (0.0, 0.1, 0.2):
        if now_s == 0.2:
            ask(kernel, 101, now_s, like_key="third")
        for decision in kernel.poll(now_s):
            assert isinstance(decision, Dispatch)
            served.append(tuple(decision.request_ids))
            kernel.complete(decision.batch_id, now_s + 0.1)
    assert served == [(0, *range(2, 101)), (1,), (101,)]


def test_cancelled_requests_leave_no_memory_behind():
    kernel = kernel_with(lane())
    for request_id in (0, 1):
        # The second stays, at the head of every order.
        ask(kernel, request_id, deadline_s=100.0, priority=1)
        kernel.poll(0.0)
    for request_id in range(2, 5000):
        ask(kernel, request_id, deadline_s=1e6)
        kernel.poll(0.0)
        kernel.cancel(request_id, 0.0)
    (group,) = kernel._models["m"]._most._groups.values()
    assert max(len(kernel._timers._heap), len(group._entries)) < 200


def test_a_long_queue_keeps_nothing_of_what_has_left():
    kernel = kernel_with(lane(batch=1), late_yields=False)
    for request_id in range(2000):
        ask(kernel, request_id)
    for step in range(1990):
        kernel.complete(dispatched(kernel, float(step)).batch_id, step + 0.1)
    (group,) = kernel._models["m"]._most._groups.values()
    assert len(group._entries) < 200


def calls_per_request(queued: int) -> int:
    """Function calls that an arrival and a poll take behind a queue of a given length."""
    kernel = kernel_with(lane(batch=1))
    for request_id in range(queued):
        ask(kernel, request_id, deadline_s=9.0)
    kernel.poll(0.0)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    ask(kernel, queued, deadline_s=9.0)
    kernel.poll(0.0)
    kernel.next_wakeup_s()
    sys.setprofile(None)
    return calls


def test_a_long_queue_costs_no_more_per_request():
    assert calls_per_request(4000) <= calls_per_request(10) + 20


# All rules at once.

KEYS = st.sampled_from(["k1", "k2", None])
LIMITS = Limits(
    requests_per_model=8, bytes_per_model=900, batch_bytes=250, cold_wait_s=3.0, max_attempts=2
)
LANES = st.lists(
    st.builds(
        lambda name, count, batch, base, slowdown: lane(
            name, count, batch, ((1, base), (4, 2 * base)) if base else (), slowdown
        ),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from([0.0, 0.1, 0.5]),
        st.sampled_from([1.0, 1.5, 3.0]),
    ),
    max_size=3,
    unique_by=lambda one: one.lane_id,
)


def due_s(request: Request) -> float:
    """When an answer is wanted."""
    wanted_s = request.arrival_s + SLO.latency_s
    return wanted_s if request.deadline_s is None else min(wanted_s, request.deadline_s)


class History(RuleBasedStateMachine):
    """Random histories against a plain account of who is where."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = DispatchKernel(LIMITS)
        self.now_s = 0.0
        self.next_id = 0
        self.requests: dict[int, Request] = {}
        self.queued: dict[int, Request] = {}
        self.arrived: dict[int, Request] = {}
        self.running: dict[int, Dispatch] = {}
        self.member_of: dict[int, int] = {}
        self.tries: dict[int, int] = {}
        self.alone: set[int] = set()
        self.ended: dict[int, str] = {}
        self.lanes: dict[str, Lane] = {}
        self.came_cold: set[int] = set()
        self.late_yields = False
        self.linger_s = 0.0
        self.longest_s = 0.0
        self.may_be_late: set[int] = set()
        self.replan([lane()], shed=False, late_yields=False, linger_s=0.0)

    def end(self, request_id: int, how: str) -> None:
        assert request_id not in self.ended, "ended twice"
        self.ended[request_id] = how

    @rule(
        lanes=LANES,
        shed=st.booleans(),
        late_yields=st.booleans(),
        linger_s=st.sampled_from([0.0, 0.0, 0.2, 2.0]),
    )
    def replan(self, lanes: list[Lane], shed: bool, late_yields: bool, linger_s: float) -> None:
        self.lanes = {one.lane_id: one for one in lanes}
        policy = OverloadPolicy.SHED if shed else OverloadPolicy.QUEUE
        plan = ModelPlan(tuple(lanes), SLO, policy, late_yields=late_yields, linger_s=linger_s)
        self.kernel.plan("m", plan, self.now_s)
        self.late_yields = late_yields
        self.linger_s = linger_s
        longest_s = [one.latency_s(4) * one.slowdown_of(one.count) for one in lanes]
        self.longest_s = max(longest_s, default=0.0)

    @rule(
        rows=st.integers(1, 4),
        key=KEYS,
        patience_s=st.none() | st.floats(0, 4),
        priority=st.integers(0, 3),
        size_bytes=st.integers(0, 200),
        node=st.none() | st.sampled_from(["node-a", "node-b"]),
    )
    def arrive(
        self,
        rows: int,
        key: str | None,
        patience_s: float | None,
        priority: int,
        size_bytes: int,
        node: str | None,
    ) -> None:
        self.next_id += 1
        deadline_s = None if patience_s is None else self.now_s + patience_s
        request = Request(
            self.next_id,
            "m",
            rows,
            self.now_s,
            deadline_s,
            priority,
            key,
            size_bytes,
            None if key else node,
        )
        self.requests[request.request_id] = self.arrived[request.request_id] = request
        if not self.lanes:
            self.came_cold.add(request.request_id)
        self.kernel.arrive(request)

    @rule(step_s=st.sampled_from([0.0, 0.05, 0.5, 4.0]))
    def poll(self, step_s: float) -> None:
        self.now_s += step_s
        if self.late_yields:
            self.may_be_late.update(
                request.request_id
                for request in {**self.queued, **self.arrived}.values()
                if due_s(request) < self.now_s + self.longest_s
            )
        for decision in self.kernel.poll(self.now_s):
            if isinstance(decision, Dispatch):
                self.on_dispatch(decision)
            elif isinstance(decision, Refuse):
                self.on_refuse(decision)
            else:
                self.on_give_up(decision)
        self.queued.update(self.arrived)
        self.arrived.clear()
        self.check_nothing_is_left_to_do()

    def on_refuse(self, refuse: Refuse) -> None:
        assert refuse.request_id in self.arrived, "refused after it was let in"
        del self.arrived[refuse.request_id]
        if refuse.cause is RefuseCause.SLO:
            assert refuse.request_id not in self.came_cold, "refused for the SLO while cold"
        assert 0 < refuse.retry_after_s <= 30
        self.end(refuse.request_id, "refused")

    def on_give_up(self, decision: Expire | Fail) -> None:
        request = self.take(decision.request_id)
        if isinstance(decision, Expire):
            assert request.deadline_s is not None
            assert request.deadline_s <= self.now_s
        elif decision.cause is FailCause.COLD:
            assert not self.lanes
        self.end(decision.request_id, "gave up")

    def take(self, request_id: int) -> Request:
        return self.queued.pop(request_id, None) or self.arrived.pop(request_id)

    def on_dispatch(self, batch: Dispatch) -> None:
        one = self.lanes[batch.lane_id]
        waiting = {**self.queued, **self.arrived}
        members = [waiting[request_id] for request_id in batch.request_ids]
        assert batch.rows == sum(request.rows for request in members)
        if len(members) > 1:
            assert batch.rows <= one.batch_limit
            assert sum(request.size_bytes for request in members) <= LIMITS.batch_bytes
            assert len({request.like_key for request in members}) == 1
            assert members[0].like_key is not None
            assert not self.alone & set(batch.request_ids)
        for request in members:
            assert request.deadline_s is None or request.deadline_s > self.now_s
            if request.node_id in {each.node_id for each in self.lanes.values()}:
                assert one.node_id == request.node_id
        self.check_order(waiting, members)
        for request_id in batch.request_ids:
            self.take(request_id)
            self.member_of[request_id] = batch.batch_id
        self.running[batch.batch_id] = batch

    def check_order(self, waiting: dict[int, Request], members: list[Request]) -> None:
        """No request overtakes one that asks the same of nodes and batches and isn't late."""

        def place(request: Request) -> tuple[int, float, int]:
            return request.rank, due_s(request), request.request_id

        assert members == sorted(members, key=place)
        for other in waiting.values():
            if other in members or self.tries.get(other.request_id):
                continue
            if {members[0].request_id, other.request_id} & self.may_be_late:
                continue
            first_is_free = other.node_id == members[0].node_id
            if first_is_free and not self.tries.get(members[0].request_id):
                assert place(members[0]) < place(other)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        batch = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self.kernel.complete(batch.batch_id, self.now_s)
        for request_id in self.members(batch):
            del self.member_of[request_id]
            self.end(request_id, "answered")

    def members(self, batch: Dispatch) -> list[int]:
        return [i for i in batch.request_ids if self.member_of.get(i) == batch.batch_id]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), retry=st.sampled_from(Retry))
    def fail(self, data: st.DataObject, retry: Retry) -> None:
        batch = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self.kernel.fail(batch.batch_id, self.now_s, retry)
        for request_id in self.members(batch):
            del self.member_of[request_id]
            self.queued[request_id] = self.requests[request_id]
            if retry is Retry.ELSEWHERE:
                self.tries[request_id] = self.tries.get(request_id, 0) + 1
                assert self.tries[request_id] <= LIMITS.max_attempts
            if retry is Retry.ALONE:
                self.alone.add(request_id)

    @precondition(lambda self: self.queued or self.arrived or self.member_of)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.poll(0.0)
        present = sorted({*self.queued, *self.member_of})
        if not present:
            return
        request_id = data.draw(st.sampled_from(present))
        batch_id = self.kernel.cancel(request_id, self.now_s)
        if request_id in self.queued:
            assert batch_id is None
            del self.queued[request_id]
        else:
            batch = self.running[self.member_of.pop(request_id)]
            assert (batch_id == batch.batch_id) is (not self.members(batch))
        self.end(request_id, "cancelled")

    @rule(data=st.data())
    def stale(self, data: st.DataObject) -> None:
        batch_id = data.draw(st.integers(-2, 50))
        if batch_id not in self.running:
            self.kernel.complete(batch_id, self.now_s)
            self.kernel.fail(batch_id, self.now_s, Retry.ELSEWHERE)
        if self.ended:
            self.kernel.cancel(data.draw(st.sampled_from(sorted(self.ended))), self.now_s)

    def check_nothing_is_left_to_do(self) -> None:
        assert self.kernel.poll(self.now_s) == []
        wakeup_s = self.kernel.next_wakeup_s()
        assert wakeup_s > self.now_s
        if self.queued and not self.running:
            # Something must come for those who wait: a lane, or the end of their patience.
            assert wakeup_s < math.inf
            if self.lanes:
                since_s = [request.arrival_s for request in self.queued.values()]
                in_time_s = [
                    request.arrival_s
                    for request_id, request in self.queued.items()
                    if request_id not in self.may_be_late
                ]
                # Those who are late may have to wait for those who gather.
                latest_s = (min(in_time_s) if in_time_s else max(since_s)) + self.linger_s
                assert wakeup_s <= max(self.now_s + SUSPENSION_S, latest_s)

    @invariant()
    def lanes_are_never_overfull(self) -> None:
        model, room = self.kernel._models["m"], 0
        for lane_id, one in self.lanes.items():
            state = model._lanes[lane_id]
            room += max(0, one.count - state.running)
            here = [batch for batch in self.running.values() if batch.lane_id == lane_id]
            assert state.running == len(here)
            assert len(state.places_s(self.now_s)) <= one.count
        assert model.room == room

    @invariant()
    def counters_add_up(self) -> None:
        counters = self.kernel.counters["m"]
        pending = {**self.queued, **self.arrived}
        assert counters.offered == sum(request.rows for request in self.requests.values())
        assert counters.in_flight == sum(self.requests[i].rows for i in self.member_of)
        assert counters.offered == (
            counters.answered_in_slo
            + counters.answered_late
            + counters.refused
            + counters.failed
            + counters.expired
            + counters.cancelled
            + counters.backlog
            + counters.in_flight
        )
        if not self.arrived:
            assert (
                self.kernel._admission.load.requests
                <= LIMITS.requests_per_model + LIMITS.max_attempts * 9
            )
            # What has failed and not been told yet is pending here, and no longer there.
            assert counters.backlog <= sum(request.rows for request in pending.values())

    def teardown(self) -> None:
        """Whatever happened, everyone gets an answer in the end."""
        self.replan([lane(count=1)], shed=False, late_yields=True, linger_s=0.2)
        for _ in range(200):
            self.poll(0.5)
            for batch in list(self.running.values()):
                self.running.pop(batch.batch_id)
                self.kernel.complete(batch.batch_id, self.now_s)
                for request_id in self.members(batch):
                    del self.member_of[request_id]
                    self.end(request_id, "answered")
        assert set(self.ended) == set(self.requests)
        assert self.kernel.next_wakeup_s() == math.inf
        assert not self.kernel._stays
        assert not self.kernel._batches
        load = self.kernel._admission.load
        assert (load.requests, load.size_bytes) == (0, 0)


History.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
TestHistory = History.TestCase


@pytest.mark.parametrize("late_yields", [False, True])
def test_long_queues_of_several_kinds_lose_nobody_and_send_nobody_twice(late_yields: bool):
    one = Lane("a", "n", 3, 32, ((1, 0.01), (8, 0.045), (32, 0.165)), (1.0, 1.1, 1.2))
    for seed in range(6):
        dice, kernel = random.Random(seed), DispatchKernel()
        kernel.plan("m", ModelPlan((one,), Slo(0.3), late_yields=late_yields), 0.0)
        # One and a half times what it can do.
        events = [(dice.uniform(0, 3), 0, request_id) for request_id in range(2200)]
        heapq.heapify(events)
        sent: list[int] = []
        while events:
            now_s, batch_id, request_id = heapq.heappop(events)
            if batch_id:
                kernel.complete(batch_id, now_s)
            else:
                kernel.arrive(Request(request_id, "m", 1, now_s, like_key=request_id % 4))
            for decision in kernel.poll(now_s):
                assert isinstance(decision, Dispatch)
                sent += decision.request_ids
                done_s = now_s + 1.2 * one.latency_s(decision.rows)
                heapq.heappush(events, (done_s, decision.batch_id, 0))
        assert sorted(sent) == list(range(2200))


@pytest.mark.parametrize("waiting", [10, 65, 70, 129, 200])
def test_a_deadline_holds_however_many_waited_for_the_first_lane(waiting: int):
    kernel = kernel_with()
    for request_id in range(waiting):
        ask(kernel, request_id, 0.001 * request_id)
    kernel.poll(0.2)
    kernel.plan("m", ModelPlan((lane(batch=1, points=((1, 1.0),)),), SLO), 1.0)
    kernel.poll(1.0)
    ask(kernel, 9999, 1.0, deadline_s=40.0)
    kernel.poll(1.0)
    assert kernel.next_wakeup_s() <= 40.0
    assert Expire(9999) in kernel.poll(41.0)
