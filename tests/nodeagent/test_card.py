"""The virtual accelerator, told what comes and when."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_nodeagent.emulator.card import Card, Process

from paldia.core.errors import InvalidArgumentError, OverloadedError
from paldia.core.profiles import Profile
from paldia.core.types import Hardware

GIB = 1 << 30
HARDWARE = Hardware("h", 1.0, 8 * GIB, gpus=1, sm_shares=True, idle_watts=20.0, rated_watts=120.0)


def profile(**more: object) -> Profile:
    return dataclasses.replace(
        Profile(
            points=((1, 0.010), (8, 0.024)),
            load_s=1.0,
            memory_bytes=3 * GIB,
            demand=((1, 0.6), (8, 1.0)),
            colocation_penalty=0.1,
        ),
        **more,
    )


def card(speed: float = 1.0) -> Card:
    return Card(HARDWARE, speed, 0.0)


def enter(on: Card, instance: int, pid: int = 1, **more: object) -> None:
    sm_percent = int(str(more.pop("sm_percent", 100)))
    on.enter(instance, Process(pid, f"m{pid}", profile(**more), sm_percent), 0.0)


def answers(on: Card, until_s: float = math.inf) -> list[tuple[float, int]]:
    """Give when each instance is answered, as whoever wakes up at each event sees it."""
    found = []
    while (now_s := on.next_event_s) <= min(until_s, 1e9):
        found += [(now_s, instance) for instance in on.take_done(now_s)]
    return found


def test_a_batch_alone_takes_what_its_profile_says() -> None:
    on = card()
    enter(on, 1)
    on.run(1, 8, 0.0, 0.5)
    assert answers(on) == [(pytest.approx(0.524), 1)]
    assert on.next_event_s == math.inf


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 8])
def test_batches_together_take_what_the_model_predicts(lanes: int, rows: int) -> None:
    on, known = card(), profile()
    for instance in range(lanes):
        enter(on, instance)
        on.run(instance, rows, 0.0, 0.0)
    expected_s = known.latency_s(rows) * known.slowdown(lanes, known.demand_fraction(rows))
    assert answers(on) == [(pytest.approx(expected_s), instance) for instance in range(lanes)]


@given(lanes=st.integers(1, 6), early_s=st.floats(0, 0.009), rows=st.sampled_from([1, 8]))
def test_what_triton_takes_on_the_way_costs_no_lane_anything(
    lanes: int, early_s: float, rows: int
) -> None:
    """Callers who have their next batch there `early_s` after an answer keep the device busy."""
    on, known, back = card(), profile(), list[tuple[float, int]]()
    for instance in range(lanes):
        enter(on, instance)
        on.run(instance, rows, early_s, 0.0)
    rounds = dict.fromkeys(range(lanes), 1)
    while min(rounds.values()) < 5:
        came_s = min(back)[0] if back else math.inf
        now_s = min(on.next_event_s, came_s)
        for instance in on.take_done(now_s):
            back.append((now_s + early_s, instance))
        for arrived in sorted(it for it in back if it[0] <= now_s):
            back.remove(arrived)
            rounds[arrived[1]] += 1
            on.run(arrived[1], rows, early_s, now_s)
    demand = known.demand_fraction(rows)
    assert now_s == pytest.approx(4 * known.latency_s(rows) * known.slowdown(lanes, demand))
    assert on.read(now_s).busy_s == pytest.approx(now_s * min(1.0, lanes * demand))


def test_an_answer_is_early_by_what_the_way_back_takes_and_no_more() -> None:
    on = card()
    enter(on, 1)
    on.run(1, 1, 0.004, 1.0)
    assert on.next_event_s == pytest.approx(1.006)
    assert on.take_done(1.0059) == []
    assert on.take_done(1.0061) == [1]
    # The next one waits until the lane is free.
    on.run(1, 1, 0.004, 1.008)
    with pytest.raises(InvalidArgumentError, match="one batch at a time"):
        on.run(1, 1, 0.004, 1.008)
    assert answers(on) == [(pytest.approx(1.016), 1)]


def test_a_share_of_the_sms_stretches_what_needs_more() -> None:
    on = card()
    enter(on, 1, sm_share=((1, 0.5),), sm_percent=25)
    enter(on, 2, 2, sm_share=((1, 0.5),), sm_percent=50)
    on.run(1, 1, 0.0, 0.0)
    on.run(2, 1, 0.0, 0.0)
    # 0.6 / 2 and 0.6 of the device: it isn't full, and the penalty is 10 %.
    assert answers(on) == [(pytest.approx(0.011), 2), (pytest.approx(0.021), 1)]


def test_memory_is_the_process_s_and_what_does_not_fit_is_refused() -> None:
    on = card()
    enter(on, 1, 1)
    enter(on, 2, 1)
    enter(on, 3, 2)
    assert on.read(0.0).memory_bytes == {1: 3 * GIB, 2: 3 * GIB}
    with pytest.raises(OverloadedError) as refused:
        enter(on, 4, 3)
    assert str(refused.value) == (
        "CUDA out of memory: m3 needs 3.00 GiB, and 2.00 GiB of this h's 8.00 GiB are free; "
        "in use by m1 3.00 GiB, m2 3.00 GiB"
    )
    on.leave(1, 0.0)
    with pytest.raises(OverloadedError):
        enter(on, 4, 3)
    on.leave(2, 0.0)
    enter(on, 4, 3)
    assert on.read(0.0).memory_bytes == {2: 3 * GIB, 3: 3 * GIB}


def test_whoever_vanishes_slows_nobody_any_more_and_is_not_answered() -> None:
    on = card()
    enter(on, 1, 1)
    enter(on, 2, 2)
    on.run(1, 8, 0.0, 0.0)
    on.run(2, 8, 0.0, 0.0)
    # Together they go at 1 / 2.2: at 0.022 s each has 0.010 s of its 0.024 s done.
    on.leave(1, 0.022)
    assert answers(on) == [(pytest.approx(0.036), 2)]
    on.leave(2, 1.0)
    on.leave(2, 1.0)
    assert on.read(1.0).memory_bytes == {}


def test_the_meters_count_what_was_used_of_the_device() -> None:
    on = card()
    enter(on, 1, 1, watts=100.0)
    enter(on, 2, 2)
    assert on.read(10.0).joules == pytest.approx(200.0)
    on.run(1, 1, 0.0, 10.0)
    on.run(2, 8, 0.0, 10.0)
    # 1.6 of the device is asked for: both go at 1 / 1.76, the first until 10.0176.
    used = on.read(10.01)
    assert used.busy_s == pytest.approx(0.01)
    watts = 20 + 0.6 / 1.6 * 80 + 1.0 / 1.6 * 100
    assert used.joules == pytest.approx(200.0 + 0.01 * watts)
    on.leave(2, 10.01)
    on.take_done(11.0)
    left_s = 0.010 - 0.01 / 1.76
    assert on.read(11.0).busy_s == pytest.approx(0.01 + 0.6 * left_s)


def test_half_the_speed_is_twice_the_time() -> None:
    on = card(speed=0.5)
    enter(on, 1)
    on.run(1, 1, 0.0, 0.0)
    assert answers(on) == [(pytest.approx(0.020), 1)]


def test_what_makes_no_sense_is_refused_and_changes_nothing() -> None:
    on = card()
    enter(on, 1)
    for rows, early_s in ((0, 0.0), (1 << 21, 0.0), (1, -0.1), (1, 1.0), (1, math.nan)):
        with pytest.raises(InvalidArgumentError):
            on.run(1, rows, early_s, 0.0)
    with pytest.raises(InvalidArgumentError, match="isn't on the card"):
        on.run(2, 1, 0.0, 0.0)
    with pytest.raises(InvalidArgumentError, match="already"):
        enter(on, 1)
    with pytest.raises(InvalidArgumentError, match="another"):
        enter(on, 2, 1, watts=7.0)
    with pytest.raises(InvalidArgumentError, match="share"):
        enter(on, 2, 2, sm_percent=0)
    on.run(1, 1, 0.0, 0.0)
    with pytest.raises(InvalidArgumentError, match="one batch at a time"):
        on.run(1, 1, 0.0, 0.001)
    assert answers(on) == [(pytest.approx(0.010), 1)]


def test_the_card_takes_only_so_many_instances() -> None:
    on = card()
    for instance in range(256):
        enter(on, instance)
    with pytest.raises(OverloadedError, match="256"):
        enter(on, 256)
