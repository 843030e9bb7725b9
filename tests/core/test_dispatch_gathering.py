"""Batches that wait for more to join them: how long, for whom, and what ends it."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.lanes import Lane, linear_slowdowns
from paldia.core.dispatch.requests import Request
from paldia.core.dispatch.types import Dispatch, Limits, ModelPlan, Retry
from paldia.core.types import OverloadPolicy, Slo

SLO = Slo(latency_s=1.0)


def lane(
    name: str = "a", count: int = 1, batch: int = 4, full_s: float = 0.1, slowdown: float = 1.0
) -> Lane:
    points = ((1, full_s / 2), (batch, full_s)) if batch > 1 else ((1, full_s),)
    slowdowns = linear_slowdowns(count, slowdown)
    return Lane(name, f"node-{name}", count, batch, points, slowdowns)


def kernel_with(
    *lanes: Lane, linger_s: float = 0.2, limits: Limits | None = None, **plan: object
) -> DispatchKernel:
    kernel = DispatchKernel(limits)
    kernel.plan("m", ModelPlan(lanes, SLO, linger_s=linger_s, **plan), 0.0)  # type: ignore[arg-type]
    return kernel


def ask(kernel: DispatchKernel, request_id: int, at_s: float = 0.0, **more: object) -> None:
    more = {"rows": 1, "like_key": "k", **more}
    kernel.arrive(Request(request_id, "m", arrival_s=at_s, **more))  # type: ignore[arg-type]


def started(kernel: DispatchKernel, now_s: float) -> list[tuple[int, ...]]:
    decisions = kernel.poll(now_s)
    assert all(isinstance(decision, Dispatch) for decision in decisions), decisions
    return [tuple(d.request_ids) for d in decisions if isinstance(d, Dispatch)]


def start_without_being_told_more(kernel: DispatchKernel) -> tuple[float, list[tuple[int, ...]]]:
    """Poll whenever the kernel wants it, until something starts; give when, and what."""
    for _ in range(20):
        now_s = kernel.next_wakeup_s()
        assert now_s < math.inf
        if ids := started(kernel, now_s):
            return now_s, ids
    raise AssertionError("nothing ever starts")


def test_batch_that_is_not_full_starts_when_its_first_request_has_waited_long_enough():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    assert started(kernel, 0.0) == []
    ask(kernel, 2, 0.15)
    assert started(kernel, 0.15) == []
    assert start_without_being_told_more(kernel) == (0.2, [(1, 2)])


def test_full_batch_starts_at_once_and_the_rest_waits_its_own_time():
    kernel = kernel_with(lane(count=2))
    for request_id in range(4):
        assert started(kernel, 0.01 * request_id) == []
        ask(kernel, request_id, 0.01 * request_id)
    ask(kernel, 4, 0.03)
    assert started(kernel, 0.03) == [(0, 1, 2, 3)]
    when_s, ids = start_without_being_told_more(kernel)
    assert (when_s, ids) == (pytest.approx(0.23), [(4,)])


def test_batch_that_is_full_in_bytes_starts_at_once():
    kernel = kernel_with(lane(), limits=Limits(batch_bytes=100))
    ask(kernel, 1, size_bytes=60)
    assert started(kernel, 0.0) == []
    ask(kernel, 2, size_bytes=60)
    assert started(kernel, 0.0) == [(1,)]


@pytest.mark.parametrize(
    ("lane_", "starts_s"),
    [
        (lane(full_s=0.4), 0.6),
        (lane(count=2, full_s=0.4, slowdown=2.0), 0.2),
        (lane(full_s=1.5), 0.0),
    ],
    ids=["alone", "beside another", "never in time"],
)
def test_batch_waits_no_longer_than_it_can_and_be_in_time_when_full(lane_: Lane, starts_s: float):
    kernel = kernel_with(lane_, linger_s=5.0)
    ask(kernel, 1)
    if started(kernel, 0.0):
        assert starts_s == 0.0
        return
    when_s, _ = start_without_being_told_more(kernel)
    assert when_s == pytest.approx(starts_s, abs=1e-5)
    assert when_s < starts_s, "rounding must make nobody late"


def test_who_joins_in_a_hurry_takes_the_others_along():
    kernel = kernel_with(lane(), linger_s=5.0)
    ask(kernel, 1)
    ask(kernel, 2, 0.1, deadline_s=0.5)
    assert started(kernel, 0.1) == []
    when_s, ids = start_without_being_told_more(kernel)
    assert (when_s, ids) == (pytest.approx(0.4, abs=1e-5), [(2, 1)])


def test_time_is_counted_from_who_came_first_whoever_goes_first():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    ask(kernel, 2, 0.15, priority=1)
    assert started(kernel, 0.15) == []
    assert start_without_being_told_more(kernel) == (0.2, [(2, 1)])


def test_batch_starts_in_time_for_who_is_due_first_whoever_goes_first():
    kernel = kernel_with(lane(), linger_s=5.0)
    ask(kernel, 1)
    ask(kernel, 2, 0.15, priority=1)
    assert started(kernel, 0.15) == []
    when_s, ids = start_without_being_told_more(kernel)
    assert (when_s, ids) == (pytest.approx(0.9, abs=1e-5), [(2, 1)])


def test_time_is_counted_anew_when_who_came_first_has_left():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    ask(kernel, 2, 0.15)
    assert started(kernel, 0.15) == []
    assert kernel.cancel(1, 0.15) is None
    when_s, ids = start_without_being_told_more(kernel)
    assert (when_s, ids) == (pytest.approx(0.35), [(2,)])


@pytest.mark.parametrize("key", ["other", None])
def test_batch_waits_no_more_once_somebody_waits_who_cannot_join_it(key: str | None):
    kernel = kernel_with(lane(count=2))
    ask(kernel, 1)
    assert started(kernel, 0.0) == []
    ask(kernel, 2, 0.05, like_key=key)
    assert started(kernel, 0.05) == ([(1,), (2,)] if key is None else [(1,)])


def test_request_that_shares_with_nobody_waits_for_nobody():
    kernel = kernel_with(lane())
    ask(kernel, 1, like_key=None)
    assert started(kernel, 0.0) == [(1,)]


def test_late_ones_do_not_take_the_lane_from_those_who_gather():
    kernel = kernel_with(lane(full_s=0.8), linger_s=0.1)
    ask(kernel, 0, like_key=None)
    (first,) = kernel.poll(0.0)
    assert isinstance(first, Dispatch)
    ask(kernel, 1, 0.1)
    ask(kernel, 2, 1.49)
    kernel.complete(first.batch_id, 1.5)
    assert started(kernel, 1.5) == []
    when_s, ids = start_without_being_told_more(kernel)
    assert (when_s, ids) == (pytest.approx(1.59), [(2,)])


def test_late_ones_wait_for_nobody():
    kernel = kernel_with(lane(), linger_s=10.0)
    ask(kernel, 1)
    assert started(kernel, 2.0) == [(1,)]


def test_who_has_once_given_way_waits_for_nobody_even_if_it_could_be_in_time_again():
    kernel = kernel_with(lane(batch=1, full_s=0.9), linger_s=0.0)
    ask(kernel, 1)
    ask(kernel, 2, 0.5)
    (first,) = kernel.poll(0.5)
    assert isinstance(first, Dispatch)
    assert first.request_ids == (2,)
    kernel.complete(first.batch_id, 0.55)
    kernel.plan("m", ModelPlan((lane(full_s=0.01),), SLO, linger_s=5.0), 0.55)
    assert started(kernel, 0.55) == [(1,)]


def test_plan_without_waiting_starts_what_waits():
    kernel = kernel_with(lane())
    ask(kernel, 1)
    assert started(kernel, 0.0) == []
    kernel.plan("m", ModelPlan((lane(),), SLO), 0.1)
    assert started(kernel, 0.1) == [(1,)]


def test_batch_that_failed_has_waited_already():
    kernel = kernel_with(lane("a"), lane("b"))
    ask(kernel, 1)
    (first,) = kernel.poll(0.2)
    assert isinstance(first, Dispatch)
    kernel.fail(first.batch_id, 0.21, Retry.ELSEWHERE)
    assert started(kernel, 0.21) == [(1,)]


@dataclass
class Service:
    """Lanes that take exactly as long as predicted, and a kernel that is asked when it wants."""

    kernel: DispatchKernel
    lanes: dict[str, Lane]
    now_s: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    lane_of: dict[int, str] = field(default_factory=dict)
    batches: list[tuple[float, Dispatch]] = field(default_factory=list)

    def run(self, arrivals_s: list[float]) -> None:
        coming = [*enumerate(arrivals_s), (len(arrivals_s), math.inf)]
        at = 0
        for _ in range(20 * len(coming) + 50):
            ends_s = self.ends[0][0] if self.ends else math.inf
            self.now_s = min(coming[at][1], ends_s, self.kernel.next_wakeup_s())
            if self.now_s == math.inf:
                return
            if coming[at][1] == self.now_s:
                ask(self.kernel, coming[at][0], self.now_s)
                at += 1
            elif ends_s == self.now_s:
                _, batch_id = heapq.heappop(self.ends)
                self.running[self.lane_of[batch_id]] -= 1
                self.kernel.complete(batch_id, self.now_s)
            self.poll()
        raise AssertionError("it never ends")

    def poll(self) -> None:
        for decision in self.kernel.poll(self.now_s):
            assert isinstance(decision, Dispatch)
            self.batches.append((self.now_s, decision))
            one = self.lanes[decision.lane_id]
            running = self.running.get(one.lane_id, 0) + 1
            self.running[one.lane_id] = running
            self.lane_of[decision.batch_id] = one.lane_id
            took_s = one.latency_s(decision.rows) * one.slowdown_of(running)
            heapq.heappush(self.ends, (self.now_s + took_s, decision.batch_id))


lanes_that_keep_up = st.builds(
    lane, st.just("a"), st.just(64), st.integers(2, 6), st.floats(0.01, 0.9)
)
gaps = st.lists(st.sampled_from([0.0, 0.003, 0.05, 0.3, 2.0]), min_size=1, max_size=40)


def ascending(steps_s: list[float]) -> list[float]:
    arrivals_s, now_s = [], 0.0
    for step_s in steps_s:
        now_s += step_s
        arrivals_s.append(now_s)
    return arrivals_s


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lanes_that_keep_up, st.floats(0.001, 2.0), gaps, st.sampled_from(OverloadPolicy))
def test_where_there_is_room_each_batch_is_full_or_has_waited_as_long_as_it_may(
    one: Lane, linger_s: float, steps_s: list[float], on_overload: OverloadPolicy
):
    kernel = kernel_with(one, linger_s=linger_s, on_overload=on_overload)
    service = Service(kernel, {"a": one})
    service.run(ascending(steps_s))
    counters = kernel.counters["m"]
    assert counters.answered_in_slo == len(steps_s), "waiting makes nobody late"
    may_wait_s = min(linger_s, SLO.latency_s - one.latency_s(one.batch_limit))
    for start_s, batch in service.batches:
        waited_s = start_s - batch.arrivals_s[0]
        assert waited_s <= may_wait_s + 1e-9
        if batch.rows < one.batch_limit:
            assert waited_s == pytest.approx(may_wait_s, abs=1e-5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.builds(
            lane,
            st.sampled_from(["a", "b"]),
            st.integers(1, 3),
            st.integers(1, 6),
            st.sampled_from([0.05, 0.4, 1.2]),
            st.sampled_from([1.0, 2.5]),
        ),
        min_size=1,
        max_size=2,
        unique_by=lambda one: one.lane_id,
    ),
    st.sampled_from([0.01, 0.2, 3.0]),
    st.booleans(),
    gaps,
)
def test_nobody_waits_for_ever_for_others_to_join(
    lanes: list[Lane], linger_s: float, late_yields: bool, steps_s: list[float]
):
    kernel = kernel_with(*lanes, linger_s=linger_s, late_yields=late_yields)
    service = Service(kernel, {one.lane_id: one for one in lanes})
    service.run(ascending(steps_s))
    served = sorted(i for _, batch in service.batches for i in batch.request_ids)
    assert served == list(range(len(steps_s)))
