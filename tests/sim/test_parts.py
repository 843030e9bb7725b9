"""Parts of the simulator by themselves: arrivals, accounts, times without a lane, and the sink."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.baselines import policy_named
from paldia.core.profiles import Profile
from paldia.core.types import OverloadPolicy
from paldia.sim import measure
from paldia.sim.arrivals import Feed
from paldia.sim.measure import ModelMeter
from paldia.sim.runner import run
from paldia.sim.scenario import Fate, Times
from paldia.sim.stream import COLD_SPANS_KEPT, Stream
from tests.sim.worlds import SLOW, At, World

SECONDS = st.floats(0.0, 30.0, allow_nan=False)


@given(st.lists(SECONDS, max_size=40), st.lists(SECONDS, max_size=20), st.integers(1, 7))
def test_a_feed_gives_each_arrival_once_when_its_time_has_come(
    arrivals_s: list[float], looks_s: list[float], chunk: int
) -> None:
    """Ties, looks that find nothing, and looks over several chunks included."""
    arrivals_s.sort()
    feed = Feed(At(tuple(arrivals_s), chunk=chunk), 25.0, ModelMeter(0.2, 1, 30.0))
    expected = [at_s for at_s in arrivals_s if at_s < 25.0]
    for look_s in sorted(looks_s):
        come = [at_s for at_s in expected if at_s <= look_s]
        assert list(feed.until(look_s)) == come
        expected = expected[len(come) :]
        assert feed.next_s == (expected[0] if expected else math.inf)
    assert list(feed.until(1e9)) == expected
    assert feed.until(1e9) == ()


BATCHES = st.lists(
    st.tuples(
        st.lists(st.floats(0.0, 90.0), min_size=1, max_size=5).map(sorted),
        *(st.floats(0.0, 5.0) for _ in range(3)),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@given(BATCHES, st.integers(1, 40))
def test_accounts_are_those_of_all_requests_one_by_one(
    batches: Sequence[tuple[list[float], float, float, float, bool]], buffered: int
) -> None:
    """However many are put aside before they are worked in."""
    requests = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "BUFFERED_REQUESTS", buffered)
        meter = ModelMeter(1.5, 10, 10.0)
        for arrivals_s, wait_s, work_s, slowed_s, is_cold in batches:
            start_s = arrivals_s[-1] + wait_s
            done_s = start_s + work_s + slowed_s
            cold_s = np.array([(start_s - at_s) / 2 for at_s in arrivals_s]) if is_cold else None
            meter.note_offered(np.array(arrivals_s))
            meter.note_batch(tuple(arrivals_s), start_s, done_s, work_s, cold_s)
            requests += [(at_s, start_s, done_s, work_s, is_cold) for at_s in arrivals_s]
        outcome = meter.outcome("m")
    count = len(requests)
    latencies_s = np.array([done_s - at_s for at_s, _, done_s, *_ in requests])
    assert (outcome.requests, outcome.answered) == (count, count)
    assert outcome.in_slo == (latencies_s <= 1.5).sum()
    assert meter.in_slo.tolist() == [
        sum(int(at_s // 10) == row and done_s - at_s <= 1.5 for at_s, _, done_s, *_ in requests)
        for row in range(10)
    ]
    waits_s = [(start_s - at_s, is_cold) for at_s, start_s, _, _, is_cold in requests]
    unloaded_s = sum(wait_s / 2 for wait_s, is_cold in waits_s if is_cold)
    queue_s = sum(wait_s / 2 if is_cold else wait_s for wait_s, is_cold in waits_s)
    assert outcome.cold_s * count == pytest.approx(unloaded_s, abs=1e-6)
    assert outcome.queue_s * count == pytest.approx(queue_s, abs=1e-6)
    assert outcome.execution_s * count == pytest.approx(sum(row[3] for row in requests), abs=1e-6)
    parts_s = outcome.queue_s + outcome.interference_s + outcome.execution_s + outcome.cold_s
    assert parts_s == pytest.approx(latencies_s.mean(), abs=1e-6)
    slowest_s = latencies_s.max()
    assert outcome.latency_counts.sum() == count
    assert slowest_s <= outcome.latency_s(1.0) * 1.01 or slowest_s < measure.SHORTEST_S


def stream() -> Stream:
    meter = ModelMeter(0.2, 1, 1.0)
    return Stream("m", 0, Feed(At(()), 1.0, meter), meter)


def test_cold_is_what_of_the_wait_passed_without_a_lane() -> None:
    one = stream()
    lanes = (cast(Any, SimpleNamespace()),)
    for now_s, serves in ((0.0, True), (10.0, False), (12.0, False), (15.0, True), (20.0, True)):
        one.lanes = lanes if serves else ()
        one.note_lanes(now_s)
    assert one.warm_since_s == 15.0
    # Before, from the middle of it, and after; a start in the middle ends the wait there.
    assert one.cold_s((9.0, 13.0, 16.0), 17.0).tolist() == [5.0, 2.0, 0.0]
    assert one.cold_s((9.0,), 11.0).tolist() == [1.0]


def test_only_so_many_times_without_a_lane_are_remembered() -> None:
    one = stream()
    for number in range(COLD_SPANS_KEPT + 5):
        for now_s, serves in ((2.0 * number, False), (2.0 * number + 1, True)):
            one.lanes = (cast(Any, SimpleNamespace()),) if serves else ()
            one.note_lanes(now_s)
    assert one.cold_s((-1.0,), 1e9).tolist() == [COLD_SPANS_KEPT]


def test_who_is_turned_away_is_told_so_when_the_next_batch_ends() -> None:
    """Also where nobody waits then, so that nothing is to be decided."""
    told: dict[float, tuple[Fate, float]] = {}

    def sink(
        model: str, fate: Fate, arrivals_s: Sequence[float] | Times, done_s: float, **_: Any
    ) -> None:
        told.update((float(at_s), (fate, done_s)) for at_s in arrivals_s)

    # A batch of four follows the first; who comes then would have to wait for all of it.
    four_s = (5.046, 5.047, 5.048, 5.049)
    world = World({"m": At((5.0, *four_s, 5.051, 8.0))}, 9.0, {"s0": SLOW}, max_batch=4)
    world.profiles = {"slow": Profile(((1, 0.05), (4, 0.17)), 1.0, 1)}
    world.on_overload = OverloadPolicy.SHED
    run(world.scenario(), policy_named("molecule-cost"), sink=sink)
    assert [told[at_s][0] for at_s in four_s] == [Fate.ANSWERED] * 4
    assert told[5.051][0] is Fate.REFUSED
    assert [told[at_s][1] for at_s in (*four_s, 5.051)] == pytest.approx([5.22] * 5)
    assert told[8.0][1] == pytest.approx(8.05)
