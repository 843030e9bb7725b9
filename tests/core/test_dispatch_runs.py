"""Runs of requests: the kernel makes of a run what it makes of its requests one by one."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core.dispatch.finish import Joined, Places, finish_s, work_off_s
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.lanes import SUSPENSION_S, Lane, LaneState, linear_slowdowns
from paldia.core.dispatch.requests import Request, Stay
from paldia.core.dispatch.types import (
    Counters,
    Dispatch,
    Fail,
    FailCause,
    Limits,
    ModelPlan,
    Refuse,
    Retry,
)
from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.types import OverloadPolicy, Slo

SLO = Slo(latency_s=0.5)


def lane(
    name: str = "a", count: int = 1, batch: int = 4, base_s: float = 0.1, slowdown: float = 1.0
) -> Lane:
    points = ((1, base_s), (8, 2 * base_s)) if base_s else ()
    return Lane(name, f"node-{name}", count, batch, points, linear_slowdowns(count, slowdown))


def kernel_with(*lanes: Lane, limits: Limits | None = None) -> DispatchKernel:
    kernel = DispatchKernel(limits)
    kernel.plan("m", ModelPlan(lanes, SLO), 0.0)
    return kernel


def dispatched(kernel: DispatchKernel, now_s: float) -> Dispatch:
    (decision,) = kernel.poll(now_s)
    assert isinstance(decision, Dispatch)
    return decision


# Examples.


def test_batch_is_the_head_of_a_run():
    kernel = kernel_with(lane(batch=3))
    kernel.arrive_run("m", 10, [0.0, 0.1, 0.2, 0.3], "k", rows=1)
    first = dispatched(kernel, 0.3)
    assert (first.request_ids, first.arrivals_s) == (range(10, 13), (0.0, 0.1, 0.2))
    kernel.complete(first.batch_id, 0.4)
    second = dispatched(kernel, 0.4)
    assert (second.request_ids, second.arrivals_s, second.rows) == ((13,), (0.3,), 1)


def test_batch_may_hold_several_runs_and_requests():
    kernel = kernel_with(lane(batch=8))
    kernel.arrive_run("m", 1, [0.0, 0.1], "k")
    kernel.arrive(Request(5, "m", 1, 0.2, like_key="k"))
    kernel.arrive_run("m", 7, [0.3, 0.31], "k")
    batch = dispatched(kernel, 0.31)
    assert batch.request_ids == (1, 2, 5, 7, 8)
    assert batch.arrivals_s == (0.0, 0.1, 0.2, 0.3, 0.31)


def test_urgent_request_goes_between_the_requests_of_a_run():
    kernel = kernel_with(lane(batch=8))
    kernel.arrive_run("m", 1, [0.0, 0.1, 0.2], "k")
    kernel.arrive(Request(9, "m", 1, 0.3, deadline_s=0.65, like_key="k"))
    assert dispatched(kernel, 0.3).request_ids == (1, 2, 9, 3)


def test_run_and_what_came_with_it_keep_their_order():
    kernel = kernel_with(lane(batch=8))
    kernel.arrive_run("m", 1, [0.0, 0.0, 0.0], "k")
    kernel.arrive(Request(9, "m", 1, 0.0, like_key="k"))
    assert dispatched(kernel, 0.0).request_ids == (1, 2, 3, 9)


def test_rest_of_a_run_waits_behind_what_came_before_it():
    kernel = kernel_with(lane(count=3, batch=1))
    kernel.arrive_run("m", 1, [0.0, 0.2], "k")
    kernel.arrive(Request(9, "m", 1, 0.1, like_key="other"))
    ids = [d.request_ids for d in kernel.poll(0.2) if isinstance(d, Dispatch)]
    assert ids == [(1,), (9,), (2,)]


def test_each_of_a_run_waits_its_own_time_for_a_lane():
    kernel = kernel_with(limits=Limits(cold_wait_s=5))
    kernel.arrive_run("m", 1, [0.0, 1.0], "k")
    assert kernel.next_wakeup_s() == 5.0
    assert kernel.poll(5.0) == [Fail(1, FailCause.COLD)]
    assert kernel.next_wakeup_s() == 6.0


def test_run_that_has_lost_its_lanes_waits_as_one():
    kernel = kernel_with(lane(), limits=Limits(cold_wait_s=5))
    kernel.arrive_run("m", 1, [0.0] * 6, "k")
    kernel.poll(0.0)
    kernel.plan("m", ModelPlan((), SLO), 1.0)
    assert kernel.next_wakeup_s() == 6.0
    assert kernel.poll(6.0) == [Fail(5, FailCause.COLD), Fail(6, FailCause.COLD)]
    assert kernel.next_wakeup_s() == math.inf


def test_answers_of_a_run_count_as_in_time_or_late_one_by_one():
    kernel = kernel_with(lane(batch=8))
    kernel.arrive_run("m", 0, [0.0, 0.1, 0.2, 0.3], "k", rows=2)
    kernel.complete(dispatched(kernel, 0.3).batch_id, 0.7)
    counters = kernel.counters["m"]
    assert (counters.offered, counters.answered_in_slo, counters.answered_late) == (8, 4, 4)


def test_run_that_fails_for_a_request_is_tried_one_by_one():
    kernel = kernel_with(lane(count=3))
    kernel.arrive_run("m", 1, [0.0, 0.0], "k")
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.1, Retry.ALONE)
    decisions = kernel.poll(0.1)
    assert [d.request_ids for d in decisions if isinstance(d, Dispatch)] == [(1,), (2,)]


def test_run_that_fails_for_its_node_goes_back_whole_and_fails_one_by_one():
    kernel = kernel_with(lane())
    kernel.arrive_run("m", 1, [0.0, 0.0], "k")
    kernel.fail(dispatched(kernel, 0.0).batch_id, 0.1, Retry.ELSEWHERE)
    again = dispatched(kernel, 0.1 + SUSPENSION_S)
    assert again.request_ids == range(1, 3)
    kernel.fail(again.batch_id, 1.0, Retry.ELSEWHERE)
    assert kernel.poll(1.0) == [Fail(1, FailCause.BATCH), Fail(2, FailCause.BATCH)]
    assert kernel.counters["m"].failed == 2


def test_run_is_refused_from_where_the_queue_is_full():
    kernel = kernel_with(lane(), limits=Limits(requests_per_model=2))
    kernel.arrive_run("m", 0, [0.0] * 4, "k")
    refused = [d.request_id for d in kernel.poll(0.0) if isinstance(d, Refuse)]
    assert refused == [2, 3]


def test_run_that_no_order_can_be_made_of_is_an_error():
    kernel = kernel_with(lane())
    with pytest.raises(InvalidArgumentError, match="ascend"):
        kernel.arrive_run("m", 0, [0.1, 0.0], "k")
    with pytest.raises(NotFoundError, match="nope"):
        kernel.arrive_run("nope", 0, [0.0], "k")
    kernel.arrive_run("m", 0, [], "k")
    assert kernel.counters["m"] == Counters()


def test_busy_until():
    kernel = kernel_with()
    assert kernel.busy_until_s("m", 0.0) == 0.0, "each waits its own time while it is cold"
    kernel.plan("m", ModelPlan((lane(),), SLO), 1.0)
    assert kernel.busy_until_s("m", 1.0) == 1.0
    kernel.arrive_run("m", 0, [1.0], "k")
    batch = dispatched(kernel, 1.0)
    assert kernel.busy_until_s("m", 1.0) == math.inf
    kernel.fail(batch.batch_id, 2.0, Retry.ELSEWHERE)
    assert kernel.busy_until_s("m", 2.0) == 2.0 + SUSPENSION_S
    assert kernel.busy_until_s("m", 3.0) == 3.0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.integers(0, 9), st.integers(1, 5))
def test_late_ones_are_the_first(ticks: list[int], now: int, slo: int):
    arrivals_s = tuple(sorted(tick / 10 for tick in ticks))
    stay = Stay.of(Request(0, "m", 1, arrivals_s[0]), 1, 1.0, arrivals_s)
    late = [now / 10 - arrival_s > slo / 10 for arrival_s in arrivals_s]
    assert stay.count_late(now / 10, slo / 10) == sum(late)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.builds(
                lane,
                st.just("a"),
                st.integers(1, 4),
                st.integers(1, 6),
                st.sampled_from([0.1, 0.3]),
                st.floats(1, 4),
            ),
            st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 6)), max_size=4),
            st.none() | st.builds(lane, base_s=st.sampled_from([0.0, 0.2])),
        ),
        max_size=3,
    ),
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from([None, 0, 1, 2]),
)
def test_few_rows_are_done_when_all_places_together_would_have_done_them(
    lanes: list[tuple[Lane, list[tuple[float, int]], Lane | None]],
    rows: int,
    most: int,
    joined: int | None,
):
    states = []
    for one, starts, changed in lanes:
        state = LaneState(one)
        for batch_id, (at_s, size) in enumerate(sorted(starts)[: one.count]):
            state.start(batch_id, size, at_s)
        if changed is not None:
            state.change(changed, 0.2)
        states.append(state)
    on = states[joined] if joined is not None and joined < len(states) else None
    places = []
    for it in states:
        free_at_s = [*it.places_beside_one_more_s(0.2), 0.6] if it is on else it.places_s(0.2)
        if free_at_s:
            stretch = it.lane.slowdown_of(it.running + (it is on))
            places.append(
                Places(it.lane, stretch, min(most, it.lane.batch_limit), sorted(free_at_s))
            )
    starting = Joined(on, 0.6) if on is not None else None
    assert work_off_s(states, rows, most, 0.2, starting) == pytest.approx(finish_s(places, rows))


# One by one or as runs, it's all the same.


@dataclass(frozen=True)
class Story:
    """What happens to a model, whoever tells it.

    Attributes:
        gaps: between arrivals, in ticks of 10 ms.
        urgent: by tick, how many ticks the caller of a further, single request waits.
        plans: by tick, what is planned from then on.
        fates: of batches, in turn: how much longer than predicted they take, how they end.
    """

    gaps: list[int]
    urgent: dict[int, int]
    plans: dict[int, ModelPlan]
    fates: list[tuple[float, Retry | None]]
    limits: Limits
    like_key: Hashable | None


TICK_S = 0.01


class Telling:
    """A kernel that a story happens to, and what it decided."""

    def __init__(self, story: Story, *, in_runs: bool) -> None:
        self.story = story
        self.in_runs = in_runs
        self.kernel = DispatchKernel(story.limits)
        self.lanes: dict[str, Lane] = {}
        self.now_s = 0.0
        self.ends: list[tuple[float, int, Retry | None]] = []
        self.told: list[tuple[Any, ...]] = []
        self.refused: list[Refuse] = []
        self.runs = 0
        self.reports = sorted(
            [(tick * TICK_S, "plan", plan) for tick, plan in story.plans.items()]
            + [(tick * TICK_S, "urgent", wait) for tick, wait in story.urgent.items()],
            key=lambda report: report[:2],
        )
        self.take_plan(ModelPlan((lane(),), SLO))

    def take_plan(self, plan: ModelPlan) -> None:
        self.lanes.update((one.lane_id, one) for one in plan.lanes)
        self.kernel.plan("m", plan, self.now_s)

    def tell(self) -> None:
        ticks, arrivals_s = 0, []
        for gap in self.story.gaps:
            ticks += gap
            arrivals_s.append(ticks * TICK_S)
        arrivals_s.append(math.inf)
        at = 0
        for _ in range(10_000):
            free_s = self.kernel.busy_until_s("m", self.now_s) if self.in_runs else self.now_s
            due_s = min(
                self.reports[0][0] if self.reports else math.inf,
                self.ends[0][0] if self.ends else math.inf,
                self.kernel.next_wakeup_s(),
            )
            if min(due_s, arrivals_s[at]) == math.inf:
                return
            if free_s <= arrivals_s[at] <= due_s:
                self.now_s = arrivals_s[at]
                self.arrive(at, arrivals_s[at])
                at += 1
            else:
                self.now_s = due_s if free_s <= self.now_s else min(due_s, free_s)
                until = bisect_right(arrivals_s, self.now_s, at)
                if until > at:
                    self.runs += 1
                    run = arrivals_s[at:until]
                    self.kernel.arrive_run("m", at, run, self.story.like_key, size_bytes=10)
                    at = until
                self.report()
            self.poll()
        raise AssertionError("the story has no end")

    def arrive(self, request_id: int, arrival_s: float) -> None:
        key = self.story.like_key
        if self.in_runs:
            self.kernel.arrive_run("m", request_id, [arrival_s], key, size_bytes=10)
        else:
            self.kernel.arrive(Request(request_id, "m", 1, arrival_s, like_key=key, size_bytes=10))

    def report(self) -> None:
        """Let one thing happen that is due."""
        if self.ends and self.ends[0][0] <= self.now_s:
            _, batch_id, failure = heapq.heappop(self.ends)
            if failure is None:
                self.kernel.complete(batch_id, self.now_s)
            else:
                self.kernel.fail(batch_id, self.now_s, failure)
        elif self.reports and self.reports[0][0] <= self.now_s:
            at_s, kind, what = self.reports.pop(0)
            if kind == "plan":
                self.take_plan(what)
                return
            # Off the ticks, so that nothing is due at the same time.
            deadline_s = at_s + what * TICK_S + TICK_S / 3
            request_id = 100_000 + len(self.reports)
            key = self.story.like_key
            self.kernel.arrive(Request(request_id, "m", 1, self.now_s, deadline_s, like_key=key))

    def poll(self) -> None:
        for decision in self.kernel.poll(self.now_s):
            if isinstance(decision, Refuse):
                self.refused.append(decision)
                continue
            self.told.append((round(self.now_s, 9), *self.plainly(decision)))
            if isinstance(decision, Dispatch):
                factor, failure = self.story.fates[decision.batch_id % len(self.story.fates)]
                took_s = max(TICK_S / 7, self.lanes[decision.lane_id].latency_s(decision.rows))
                end_s = self.now_s + factor * took_s
                heapq.heappush(self.ends, (end_s, decision.batch_id, failure))

    def plainly(self, decision: Any) -> tuple[Any, ...]:
        if isinstance(decision, Dispatch):
            decision = decision._replace(request_ids=tuple(decision.request_ids))
            assert len(decision.arrivals_s) == len(decision.request_ids)
        return (type(decision).__name__, decision)


plans = st.builds(
    lambda lanes, shed, linger_s: ModelPlan(
        tuple(lanes),
        SLO,
        OverloadPolicy.SHED if shed else OverloadPolicy.QUEUE,
        linger_s=linger_s,
    ),
    st.lists(
        st.builds(
            lane,
            st.sampled_from(["a", "b", "c"]),
            st.integers(1, 4),
            st.integers(1, 6),
            st.sampled_from([0.0, 0.05, 0.2]),
            st.floats(1, 4),
        ),
        max_size=3,
        unique_by=lambda one: one.lane_id,
    ),
    st.booleans(),
    st.sampled_from([0.0, 0.0, 0.02, 0.3]),
)
stories = st.builds(
    Story,
    st.lists(st.sampled_from([0, 0, 1, 2, 5, 30]), min_size=1, max_size=80),
    st.dictionaries(st.integers(0, 60), st.integers(1, 80), max_size=4),
    st.dictionaries(st.integers(0, 80), plans, max_size=3),
    st.lists(
        st.tuples(st.sampled_from([0.9, 1.0, 1.7]), st.none() | st.sampled_from(Retry)),
        min_size=1,
        max_size=5,
    ),
    st.builds(
        Limits,
        requests_per_model=st.sampled_from([3, 12, 1000]),
        bytes_per_model=st.sampled_from([75, 1000]),
        batch_bytes=st.sampled_from([25, 1000]),
        cold_wait_s=st.sampled_from([0.1, 3.0]),
    ),
    st.sampled_from(["k", "k", "k", None]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stories)
def test_kernel_decides_on_runs_as_on_their_requests_one_by_one(story: Story):
    singly, in_runs = Telling(story, in_runs=False), Telling(story, in_runs=True)
    singly.tell()
    in_runs.tell()
    assert in_runs.told == singly.told
    assert in_runs.refused == singly.refused
    assert in_runs.kernel.counters == singly.kernel.counters
    counters = replace(singly.kernel.counters["m"])
    assert (counters.backlog, counters.in_flight) == (0, 0)
