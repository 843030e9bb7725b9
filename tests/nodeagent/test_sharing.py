"""Closed loops, and what follows from them."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_nodeagent.measure import closed_loop
from paldia_nodeagent.sharing import (
    LANES_LEAST,
    LANES_MOST,
    lanes_to_load,
    middle_mean,
    sizes_to_share,
    slowdowns,
    weights_of,
)


async def test_only_what_ran_while_all_called_is_counted() -> None:
    running = most = 0
    beside: list[int] = []

    async def call() -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        at_start = running
        await asyncio.sleep(0.002)
        beside.append(min(at_start, running))
        running -= 1
        return 0.002

    samples, took_s = await closed_loop(call, 3, 0.05, 10.0)
    assert most == 3
    assert running == 0
    assert len(samples) >= 9
    assert took_s >= 0.05


async def test_a_loop_without_time_still_has_a_sample() -> None:
    async def call() -> float:
        await asyncio.sleep(0)
        return 1.0

    samples, _ = await closed_loop(call, 2, 0.0, 0.0)
    assert samples == [1.0]


async def test_one_that_fails_ends_the_others() -> None:
    ended = 0

    async def call() -> float:
        nonlocal ended
        try:
            if asyncio.current_task() is first:
                raise ValueError("odd")
            await asyncio.Event().wait()
        finally:
            ended += 1
        return 1.0

    first: asyncio.Task[object] | None = None

    async def named() -> float:
        nonlocal first
        first = first or asyncio.current_task()
        return await call()

    with pytest.raises(ValueError, match="odd"):
        await closed_loop(named, 3, 1.0, 1.0)
    assert ended == 3


@pytest.mark.parametrize(
    ("demand", "free", "lanes"),
    [
        (None, 1000, LANES_LEAST),
        (1.0, 1000, LANES_LEAST),
        (0.5, 1000, 4),
        (0.25, 1000, 6),
        (0.01, 1000, LANES_MOST),
        (0.5, 25, 3),
        (0.5, 0, 1),
        (0.5, -10, 1),
    ],
)
def test_lanes_go_past_where_they_fill_the_device_and_fit(
    demand: float | None, free: int, lanes: int
) -> None:
    assert lanes_to_load(demand, 10, free) == lanes


def test_the_larger_of_the_sizes_is_one_that_is_worth_batching() -> None:
    assert sizes_to_share([(1, 0.01), (2, 0.02), (4, 0.09), (8, 0.2)]) == [1, 4]
    assert sizes_to_share([(1, 0.5), (2, 0.9)]) == [1]


def test_a_middle_mean_leaves_out_both_ends() -> None:
    assert middle_mean([9.0, 1.0, 2.0, 2.0, 4.0, 3.0, 3.0, 0.0]) == pytest.approx(2.5)
    assert middle_mean([5.0]) == 5.0


def test_what_drifts_meanwhile_is_no_slowdown() -> None:
    """A machine that slows steadily, measured from one lane to three and back."""
    true = (1.0, 1.5, 2.25)
    pace = [1.0 + 0.1 * at for at in range(6)]
    up = [0.02 * factor * pace[at] for at, factor in enumerate(true)]
    down = [0.02 * factor * pace[5 - at] for at, factor in enumerate(true)]
    assert slowdowns([up, down]) == pytest.approx(true)
    assert slowdowns([up]) == pytest.approx((1.0, 1.65, 2.7)), "which one way would take for one"


def test_one_single_batch_that_was_disturbed_spoils_no_more_than_its_part() -> None:
    up, down = [0.02, 0.03], [0.03, 0.03]
    assert slowdowns([up, down]) == pytest.approx((1.0, 1.2))


@given(
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=2),
    st.integers(1, 8),
)
def test_more_batches_and_longer_ones_are_given_more_time(
    alone_s: list[float], callers: int
) -> None:
    now, beside_more = weights_of(alone_s, callers), weights_of(alone_s, callers + 1)
    assert all(
        more - few == pytest.approx(one_s)
        for few, more, one_s in zip(now, beside_more, alone_s, strict=True)
    )
    assert sorted(now) == [weight for _, weight in sorted(zip(alone_s, now, strict=True))]
    assert min(now) > max(alone_s), "a round of the longest at least"
