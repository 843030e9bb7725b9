"""Dispatch under load: devices in virtual time serve what the kernel sends them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import pytest

from paldia.core.correction import RATIO_LIMIT
from paldia.core.device import Device, Tenant
from paldia.core.dispatch.drift import FADE_S, STEP_MOST, WEIGHT
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.lanes import Lane, LaneState, linear_slowdowns
from paldia.core.dispatch.requests import Request
from paldia.core.dispatch.types import Dispatch, Limits, ModelPlan
from paldia.core.profiles import Profile
from paldia.core.types import OverloadPolicy, Slo

SECONDS = 6.0
UNLIMITED = Limits(10**6, 10**12, 10**6, 10**12)


def profile(share: float, times: float = 1.0) -> Profile:
    """Give one whose batches take such a share of the device, and so many times as long."""
    points = ((1, 0.01 * times), (8, 0.045 * times), (32, 0.165 * times))
    return Profile(points, 1.0, 1, demand=((1, share),), colocation_penalty=0.1)


@dataclass(frozen=True)
class Node:
    """A device with a model on it; `speed` is what it makes of its profile."""

    profile: Profile
    places: int
    batch: int
    speed: float = 1.0

    @property
    def share(self) -> float:
        return self.profile.demand_fraction(1)

    def slowdown(self, running: int) -> float:
        return float(self.profile.slowdown(running, self.share))

    @property
    def rps(self) -> float:
        """Requests a second in full batches, at the number at once that gets most done."""
        alone_s = self.profile.latency_s(self.batch) / self.speed
        counts = range(1, self.places + 1)
        return max(self.batch * count / (alone_s * self.slowdown(count)) for count in counts)

    def lane(self, name: str) -> Lane:
        slowdowns = tuple(self.slowdown(count) for count in range(1, self.places + 1))
        return Lane(name, name, self.places, self.batch, self.profile.points, slowdowns)


@dataclass(frozen=True)
class Served:
    """When each request was answered, and how long it took."""

    done_s: list[float]
    latency_s: list[float]

    def per_second_within(self, slo_s: float) -> float:
        return sum(latency_s <= slo_s for latency_s in self.latency_s) / SECONDS

    def per_second(self, from_s: float) -> float:
        return sum(from_s < done_s < SECONDS for done_s in self.done_s) / (SECONDS - from_s)

    @property
    def mean_s(self) -> float:
        return sum(self.latency_s) / len(self.latency_s)


def serve(
    nodes: list[Node],
    load: float,
    slo_s: float,
    *,
    like: Callable[[int], Hashable] = lambda request_id: "k",
    late_yields: bool = True,
) -> Served:
    """Let requests come at random, `load` times as many as the nodes get done, and be served."""
    dice, kernel, at_s = random.Random(1), DispatchKernel(UNLIMITED), 0.0
    lanes = tuple(node.lane(str(index)) for index, node in enumerate(nodes))
    kernel.plan("m", ModelPlan(lanes, Slo(slo_s), late_yields=late_yields), 0.0)
    tenants = [Tenant(node.profile) for node in nodes]
    devices = [Device() for _ in nodes]
    for node, device in zip(nodes, devices, strict=True):
        device.set_speed(node.speed, 0.0)
    rate = load * sum(node.rps for node in nodes)
    arrivals: list[float] = []
    while (at_s := at_s + dice.expovariate(rate)) < SECONDS:
        arrivals.append(at_s)
    sent: dict[int, Dispatch] = {}
    come, served = 0, Served([], [])
    while True:
        arrival_s = arrivals[come] if come < len(arrivals) else math.inf
        done_s = min(device.next_completion_s for device in devices)
        now_s = min(arrival_s, done_s, kernel.next_wakeup_s())
        if now_s == math.inf:
            assert len(served.done_s) == len(arrivals)
            return served
        for device in devices:
            for batch_id in device.finish_due(now_s):
                kernel.complete(batch_id, now_s)
                for came_s in sent[batch_id].arrivals_s:
                    served.done_s.append(now_s)
                    served.latency_s.append(now_s - came_s)
        if arrival_s == now_s:
            kernel.arrive(Request(come, "m", 1, arrival_s, like_key=like(come)))
            come += 1
        for decision in kernel.poll(now_s):
            assert isinstance(decision, Dispatch)
            sent[decision.batch_id] = decision
            index = int(decision.lane_id)
            work_s = nodes[index].profile.latency_s(decision.rows)
            devices[index].start(
                tenants[index], decision.batch_id, work_s, nodes[index].share, now_s
            )


@pytest.mark.parametrize(
    ("nodes", "slo_s"),
    [
        ([Node(profile(0.3), 3, 32)], 0.3),
        ([Node(profile(0.3), 3, 32)] * 2, 0.3),
        ([Node(profile(0.7), 2, 8)] * 2, 0.1),
    ],
)
def test_at_twice_the_load_as_many_are_in_time_as_could_be(nodes: list[Node], slo_s: float):
    # Whoever is judged as if nobody came beside him starts in time and is answered late.
    in_time = serve(nodes, 2.0, slo_s).per_second_within(slo_s)
    assert in_time >= 0.9 * sum(node.rps for node in nodes)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5])
def test_those_who_can_share_no_batch_wait_no_longer_for_how_large_one_may_be(share: float):
    means_s = []
    for batch in (1, 32):
        node = Node(profile(share), 3, batch)
        load = 0.8 * Node(profile(share), 3, 1).rps / node.rps
        served = serve([node], load, 0.1, like=lambda request_id: None, late_yields=False)
        means_s.append(served.mean_s)
    assert means_s[1] == pytest.approx(means_s[0], rel=0.05)


@pytest.mark.parametrize(("share", "places"), [(0.95, 2), (0.48, 3)])
def test_slower_nodes_are_used_while_faster_ones_gain_nothing_from_another_batch(
    share: float, places: int
):
    nodes = [Node(profile(share, times), places, 8) for times in (1.0, 2.5, 6.0)]
    served = serve(nodes, 2.0, 0.6, late_yields=False)
    assert served.per_second(from_s=1.0) >= 0.95 * sum(node.rps for node in nodes)


@pytest.mark.parametrize(("node", "slo_s"), [((1.0, 1, 8), 0.1), ((0.3, 3, 32), 0.4)])
@pytest.mark.parametrize("slower", [1.25, 1.5])
def test_a_node_slower_than_its_profile_answers_as_many_in_time_as_it_can(
    node: tuple[float, int, int], slo_s: float, slower: float
):
    share, places, batch = node
    slow = Node(profile(share), places, batch, speed=1 / slower)
    assert serve([slow], 1.5, slo_s).per_second_within(slo_s) >= 0.85 * slow.rps


# What a lane has learned.


def lane_with(batches: int, times: float, count: int = 1) -> tuple[LaneState, float]:
    """Give a lane on which so many batches took so many times as long as foretold, and when."""
    slowdowns = linear_slowdowns(count, 1.5)
    state, now_s = LaneState(Lane("a", "a", count, 4, ((1, 0.1), (4, 0.2)), slowdowns)), 0.0
    for batch_id in range(batches):
        state.start(batch_id, 4, now_s)
        now_s += 0.2 * times
        state.end(batch_id, now_s, teaches=True)
    return state, now_s


def test_predictions_follow_what_batches_take():
    state, now_s = lane_with(60, times=1.6)
    assert state.predict_s(1, now_s) - now_s == pytest.approx(0.16, rel=0.01)
    assert state.longest_s == pytest.approx(0.32, rel=0.01)
    assert state.rows_within(0.25) == 2
    state.start(99, 4, now_s)
    assert state.places_s(now_s)[0] - now_s == pytest.approx(0.32, rel=0.01)


def test_what_batches_cost_each_other_is_no_drift():
    state, _ = lane_with(0, times=1.0, count=2)
    for at in range(20):
        now_s = float(at)
        for batch_id in (2 * at, 2 * at + 1):
            state.start(batch_id, 4, now_s)
        for batch_id in (2 * at, 2 * at + 1):
            state.end(batch_id, now_s + 0.3, teaches=True)
    assert state.drift.ratio == pytest.approx(1.0)


def test_no_lane_passes_for_faster_than_its_profile():
    state, now_s = lane_with(60, times=0.5)
    assert state.drift.ratio == pytest.approx(0.5, rel=0.01)
    assert state.predict_s(4, now_s) - now_s == pytest.approx(0.2)


def test_one_pause_hardly_counts_and_nothing_counts_without_bound():
    state, _ = lane_with(1, times=1e4)
    assert state.drift.ratio == pytest.approx(1 + WEIGHT * (STEP_MOST - 1))
    state, _ = lane_with(200, times=1e4)
    assert state.drift.ratio == pytest.approx(RATIO_LIMIT)


def test_what_was_learned_fades_while_nothing_runs():
    state, now_s = lane_with(60, times=1.6)
    state.start(99, 4, now_s)
    state.predict_s(4, now_s + FADE_S)
    assert state.drift.ratio == pytest.approx(1.6, rel=0.01), "a batch runs"
    state.end(99, now_s + FADE_S)
    for part in (0.25, 0.5, 1.0):
        state.predict_s(4, now_s + (1 + part) * FADE_S)
    assert state.drift.ratio == pytest.approx(1 + 0.6 * math.exp(-1), rel=0.01)


def test_a_model_that_sheds_finds_out_that_its_node_has_recovered():
    lane = Lane("a", "n", 1, 1, ((1, 0.1),))
    kernel, now_s = DispatchKernel(), 0.0
    kernel.plan("m", ModelPlan((lane,), Slo(0.25), OverloadPolicy.SHED), now_s)
    served = []
    for request_id in range(1200):
        kernel.arrive(Request(request_id, "m", 1, now_s))
        took_s = 0.4 if request_id < 200 else 0.1
        for decision in kernel.poll(now_s):
            served.append(isinstance(decision, Dispatch))
            if isinstance(decision, Dispatch):
                kernel.complete(decision.batch_id, now_s + took_s)
        now_s += 0.5
    assert sum(served[50:200]) < 75, "what would be late is refused, but for a few to see by"
    assert all(served[800:])


def test_a_plan_may_have_nothing_learned():
    lane = Lane("a", "n", 1, 1, ((1, 0.1),))
    kernel = DispatchKernel()
    kernel.plan("m", ModelPlan((lane,), Slo(0.25), OverloadPolicy.SHED, learns=False), 0.0)
    for at in range(50):
        kernel.arrive(Request(at, "m", 1, float(at)))
        (batch,) = kernel.poll(float(at))
        assert isinstance(batch, Dispatch), "however late those before it were"
        kernel.complete(batch.batch_id, at + 0.5)
