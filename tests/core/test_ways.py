"""Ways to share, judged in arrays: the same as one by one, and as the formulas say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core.config import PolicyConfig
from paldia.core.profiles import Profile
from paldia.core.sharing.asks import Ask, batches_per_demand
from paldia.core.sharing.costs import costs_of, stacked
from paldia.core.sharing.offers import divided, judged
from paldia.core.sharing.prediction import (
    Demand,
    Neighbours,
    SharingRule,
    Way,
    batch_sizes,
    predict,
)
from paldia.core.sharing.ways import LANES, least_sm_share
from paldia.core.types import Hardware, Slo

CONFIG = PolicyConfig()
LIMIT = CONFIG.utilisation_limit


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    sizes = [1 << power for power in range(draw(st.integers(1, 5)))]
    seconds = draw(st.lists(st.floats(0.001, 0.05), min_size=len(sizes), max_size=len(sizes)))
    shares = sorted(draw(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=2)))
    return Profile(
        tuple(zip(sizes, seconds, strict=True)),
        load_s=1.0,
        memory_bytes=draw(st.integers(1, 4)) << 30,
        demand=((1, shares[0]), (16, shares[1])),
        sm_share=((1, shares[0]),) if draw(st.booleans()) else (),
        colocation_penalty=draw(st.floats(0, 0.15)),
        interference=tuple(sorted(draw(st.lists(st.floats(1, 2), max_size=3)))),
    )


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    demand = Demand(
        draw(st.floats(0, 60)),
        draw(st.sampled_from([1.0, 2.0, 5.0])),
        draw(st.sampled_from([0, 0, 7])),
        Slo(draw(st.sampled_from([0.05, 0.2, 1.0])), draw(st.sampled_from([0.9, 0.99]))),
    )
    return Ask(
        draw(profiles()),
        demand,
        batch_limit=draw(st.sampled_from([0, 3, 8])),
        most_lanes=draw(st.integers(1, 9)),
        margin=CONFIG.margin,
        limit=LIMIT,
        batches_per_demand=3.0,
        sm_percent=draw(st.sampled_from([100, 50])),
    )


def foretold(ask: Ask, batch: int, lanes: int, others: float):
    """Give one way's prediction by the formulas alone."""
    way = Way(ask.profile, batch, lanes, ask.sm_percent)
    beside = Neighbours(others, others * ask.batches_per_demand)
    return predict(way, ask.demand, beside, CONFIG, lanes_limit=lanes)


def keeps(ask: Ask, batch: int, lanes: int, others: float) -> bool:
    found = foretold(ask, batch, lanes, others)
    kept = ask.demand.requests_per_second <= ask.limit * found.capacity
    return bool(kept and found.latency_s <= ask.allowed_s)


@settings(max_examples=60, deadline=None)
@given(st.lists(asks(), min_size=2, max_size=5))
def test_many_are_judged_as_each_of_them_would_be(several: list[Ask]) -> None:
    together = judged(several, SharingRule.LANES, CONFIG)
    for row, ask in enumerate(several):
        alone = judged([ask], SharingRule.LANES, CONFIG)
        for name in ("batch", "lanes", "used", "memory_bytes", "tolerance", "latency_s"):
            ours, theirs = getattr(together, name)[row], getattr(alone, name)[0]
            assert ours == pytest.approx(theirs, rel=1e-9), name


@settings(max_examples=60, deadline=None)
@given(asks())
def test_latencies_are_what_the_formulas_say(ask: Ask) -> None:
    offers = judged([ask], SharingRule.LANES, CONFIG)
    for way in range(offers.batch.shape[1]):
        batch, lanes = int(offers.batch[0, way]), int(offers.lanes[0, way])
        for rung, others in enumerate(np.linspace(0, LIMIT, offers.latency_s.shape[2])):
            expected = foretold(ask, batch, lanes, float(others))
            assert offers.latency_s[0, way, rung] == pytest.approx(float(expected.latency_s))
            assert offers.capacity[0, way, rung] == pytest.approx(float(expected.capacity))


@settings(max_examples=60, deadline=None)
@given(asks(), st.floats(0, 1))
def test_a_way_keeps_the_slo_up_to_its_tolerance_and_not_far_beyond(ask: Ask, part: float) -> None:
    offers = judged([ask], SharingRule.LANES, CONFIG)
    for way in range(offers.batch.shape[1]):
        shape = int(offers.batch[0, way]), int(offers.lanes[0, way])
        tolerance = float(offers.tolerance[0, way])
        if tolerance < 0:
            assert not keeps(ask, *shape, 0.0)
            continue
        assert keeps(ask, *shape, tolerance)
        step = LIMIT / 8 / 8
        if tolerance < LIMIT - 1e-9:
            assert not keeps(ask, *shape, tolerance + step)


@settings(max_examples=40, deadline=None)
@given(asks())
def test_the_best_way_alone_is_about_as_fast_as_any_that_keeps_up(ask: Ask) -> None:
    offers = judged([ask], SharingRule.LANES, CONFIG)
    able = {}
    for batch in batch_sizes(ask.largest):
        for lanes in [count for count in LANES if count <= min(CONFIG.lanes_limit, ask.most_lanes)]:
            share = Way(ask.profile, batch, lanes, ask.sm_percent).demand_fraction(batch)
            found = foretold(ask, batch, lanes, 0.0)
            rate = ask.demand.requests_per_second
            keeps_up = rate <= LIMIT * found.capacity and found.utilisation <= LIMIT
            if keeps_up and lanes <= np.ceil(1 / share):
                able[batch, lanes] = float(found.latency_s)
    chosen = int(offers.batch[0, 0]), int(offers.lanes[0, 0])
    if able:
        assert chosen in able
        assert able[chosen] <= min(able.values()) / (1 - CONFIG.improvement) * (1 + 1e-9)
        if min(able.values()) <= ask.allowed_s:
            assert able[chosen] <= ask.allowed_s


def ask_for(rate: float, latency_s: float = 0.02, **options: object) -> Ask:
    known = Profile(((1, latency_s), (8, latency_s * 4)), 1.0, 1 << 30, demand=((1, 0.5), (8, 0.8)))
    demand = Demand(rate, 1.0, 0, Slo(0.2))
    fields = {"batch_limit": 0, "most_lanes": 8, "margin": 0.9, "limit": LIMIT}
    return Ask(known, demand, batches_per_demand=3.0, **(fields | options))  # type: ignore[arg-type]


def chosen_way(ask: Ask) -> tuple[int, int]:
    offers = judged([ask], SharingRule.LANES, CONFIG)
    return int(offers.batch[0, 0]), int(offers.lanes[0, 0])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(asks(), st.floats(1.0, 20.0))
def test_where_nothing_keeps_up_the_way_is_one_that_gets_most_done(ask: Ask, factor: float) -> None:
    """Whatever runs now."""
    lanes = [count for count in LANES if count <= min(ask.most_lanes, CONFIG.lanes_limit)]
    ways = [(batch, count) for batch in batch_sizes(ask.largest) for count in lanes]
    capacity = {
        (batch, count): float(foretold(ask, batch, count, 0.0).capacity)
        for batch, count in ways
        if (count - 1) * Way(ask.profile, batch, 1, ask.sm_percent).demand_fraction(batch) < 1
    }
    prompt = {
        (batch, count): most
        for (batch, count), most in capacity.items()
        if 2 * batch * count / most <= ask.allowed_s
    }
    most = max((prompt or capacity).values())
    worst = min(capacity, key=lambda way: capacity[way])
    demand = replace(ask.demand, requests_per_second=factor * max(capacity.values()))
    offers = judged([replace(ask, demand=demand, now=worst)], SharingRule.LANES, CONFIG)
    chosen = int(offers.batch[0, 0]), int(offers.lanes[0, 0])
    assert capacity[chosen] >= 0.98 * most
    assert not prompt or chosen in prompt, "what it gets done is in time"


def test_what_runs_now_wins_a_tie_and_nothing_else() -> None:
    quiet, busy = ask_for(0), ask_for(5)
    assert chosen_way(quiet)[1] == 1
    assert chosen_way(replace(quiet, now=(1, 2))) == (1, 2)
    assert foretold(busy, 1, 1, 0.0).latency_s > 2 * foretold(busy, 1, 2, 0.0).latency_s
    assert chosen_way(replace(busy, now=(1, 1))) == chosen_way(busy) == (1, 2)


@pytest.mark.parametrize("rule", list(SharingRule))
def test_every_rule_gives_ways_within_the_limits(rule: SharingRule) -> None:
    several = [ask_for(30, most_lanes=3, batch_limit=4), ask_for(1)]
    offers = judged(several, rule, CONFIG)
    for row, ask in enumerate(several):
        assert (offers.batch[row] >= 1).all()
        assert (offers.batch[row] <= ask.largest).all()
        assert (offers.lanes[row] >= 1).all()
        assert (offers.lanes[row] <= ask.most_lanes).all()
    if rule in (SharingRule.TIME, SharingRule.DYNAMIC):
        assert (offers.lanes == 1).all()


def test_a_fixed_way_is_that_of_the_mean_whatever_the_rate() -> None:
    mean = ask_for(20).demand
    shapes = set()
    for rate in (1.0, 20.0, 35.0):
        offers = judged([ask_for(rate, mean=mean)], SharingRule.FIXED, CONFIG)
        shapes.add((int(offers.batch[0, 0]), int(offers.lanes[0, 0])))
    assert len(shapes) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(asks(), min_size=1, max_size=4), st.integers(1, 16))
def test_work_is_divided_over_the_fewest_nodes_that_keep_the_slo(
    several: list[Ask], most: int
) -> None:
    def one_of(pair: int, nodes: int) -> Ask:
        whole = several[pair]
        rate = 12 * whole.demand.requests_per_second / nodes
        return replace(whole, demand=replace(whole.demand, requests_per_second=rate))

    def kept(pair: int, nodes: int) -> bool:
        offers = judged([one_of(pair, nodes)], SharingRule.LANES, CONFIG)
        return bool(offers.tolerance.max() >= 0)

    ones = np.ones(len(several), dtype=np.int64)
    offers = divided(ones, ones * most, one_of, SharingRule.LANES, CONFIG)
    for pair in range(len(several)):
        count = int(offers.nodes[pair])
        assert 1 <= count <= most
        if offers.tolerance[pair].max() >= 0:
            assert count == 1 or not kept(pair, count - 1)
        else:
            assert not kept(pair, most)


def test_the_fewest_nodes_are_found_between_those_that_are_tried_first() -> None:
    counts = {}
    for rate in range(20, 800, 20):
        offers = divided(
            np.array([1]),
            np.array([16]),
            lambda _, nodes, rate=rate: ask_for(rate / nodes),
            SharingRule.LANES,
            CONFIG,
        )
        count = int(offers.nodes[0])
        counts[rate] = count
        if offers.tolerance.max() >= 0 and count > 1:
            fewer = judged([ask_for(rate / (count - 1))], SharingRule.LANES, CONFIG)
            assert fewer.tolerance.max() < 0
    assert {3, 5, 6, 7} <= {*counts.values()}
    assert list(counts.values()) == sorted(counts.values())


def test_the_least_share_of_the_sms_still_keeps_the_slo() -> None:
    whole = ask_for(3, latency_s=0.05)
    held = replace(whole, profile=replace(whole.profile, sm_share=((1, 0.3), (8, 0.6))))
    percent = least_sm_share(held, 1, 2, 0.4, CONFIG)
    assert percent == 20
    assert keeps(replace(held, sm_percent=percent), 1, 2, 0.4)
    assert not keeps(replace(held, sm_percent=percent - 10), 1, 2, 0.4)
    assert least_sm_share(whole, 1, 2, 0.4, CONFIG) == 100


@settings(max_examples=60, deadline=None)
@given(st.lists(profiles(), min_size=1, max_size=4), st.sampled_from([10, 50, 100]))
def test_tables_say_what_profiles_say(several: list[Profile], percent: int) -> None:
    stack = stacked(tuple(costs_of(profile, percent) for profile in several), axes=1)
    for row, profile in enumerate(several):
        for size in range(1, profile.largest_batch + 1):
            at = int(stack.start[row, 0]) + size
            assert stack.latency_s[at] == pytest.approx(profile.latency_s(size, percent))
            assert stack.demand[at] == pytest.approx(profile.demand_fraction(size, percent))


def test_batches_of_neighbours_follow_from_the_kind() -> None:
    assert batches_per_demand(Hardware("gpu", 1.0, 1 << 30, cores=8, gpus=1)) == 3
    assert batches_per_demand(Hardware("cpu", 1.0, 1 << 30, cores=8)) == 8
