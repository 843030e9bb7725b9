"""What passes for life, and for how long a model may show none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_nodeagent.health import Answers, patience_s, read_statistics
from paldia_nodeagent.stillness import Lanes, Stillness, Work, WorkWatch
from tritonclient.grpc import service_pb2


def lanes_seen(*looks: dict[int, int], answered: bool = False) -> Lanes:
    """Look once a second."""
    lanes = Lanes()
    for second, switches in enumerate(looks):
        lanes.see(float(second), switches, {}, answered=answered)
    return lanes


def test_time_without_life_adds_up_and_life_ends_it() -> None:
    still = Stillness()
    assert [still.see(float(s), moved=False) for s in range(4)] == [0, 1, 2, 3]
    assert still.see(4.0, moved=True) == 0
    assert still.see(5.0, moved=False) == 1


def test_time_that_others_had_or_nobody_looked_does_not_count() -> None:
    still = Stillness()
    still.see(0.0, moved=False)
    assert still.see(1.0, moved=False, starved_s=0.75) == pytest.approx(1 / 3)
    assert still.see(1.75, moved=False, starved_s=9.0) == pytest.approx(7 / 12), (
        "a third counts all the same"
    )
    assert still.see(3600.0, moved=False) == pytest.approx(31 / 12), "the agent itself stood still"


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.floats(0, 5)), max_size=30))
def test_never_longer_still_than_since_the_last_move(
    looks: list[tuple[float, bool, float]],
) -> None:
    still, now_s, moved_s = Stillness(), 0.0, 0.0
    for step_s, moved, starved_s in looks:
        now_s += step_s
        moved_s = now_s if moved else moved_s
        assert 0 <= still.see(now_s, moved=moved, starved_s=starved_s) <= now_s - moved_s + 1e-9


@pytest.mark.parametrize(
    ("cpu_s", "waited_s", "moved_bytes", "on_disk", "works"),
    [
        (0.0, 0.0, 0, False, False),
        (0.004, 0.01, 0, False, False),
        (0.3, 0.0, 0, False, True),
        (0.0, 0.3, 0, False, True),
        (0.0, 0.0, 1, False, True),
        (0.0, 0.0, 0, True, True),
        (-2.0, 0.0, -5, False, True),
    ],
)
def test_what_is_work(
    cpu_s: float, waited_s: float, moved_bytes: int, on_disk: bool, works: bool
) -> None:
    """Each figure is what there is more of after a second."""
    watch = WorkWatch()
    for look in range(5):
        work = Work(9 + look * cpu_s, {7: look * waited_s}, look * moved_bytes, on_disk)
        still_s = watch.see(float(look), work)
    assert still_s == (0 if works else 4)


def test_what_each_thread_waited() -> None:
    before = Work(1.0, {1: 5.0, 2: 1.0}, 0)
    assert Work(1.0, {1: 5.25, 3: 0.5}, 0).starved_s(before) == {1: 0.25, 3: 0.5}


def test_only_a_lanes_own_waiting_spares_it() -> None:
    lanes = lanes_seen(*({1: s, 2: s} for s in range(3)))
    for second in range(3, 7):
        lanes.see(float(second), {1: 2, 2: second}, {1: 0.5, 2: 1.0, 9: 1.0}, answered=False)
    assert lanes.still_s() == 2


def test_lanes_that_wake_once_a_second_rest() -> None:
    lanes = lanes_seen(*({1: 10 + s, 2: 20 + s} for s in range(5)))
    assert lanes.at_rest
    assert lanes.still_s() == 0


def test_a_lane_that_stands_still_is_seen_beside_one_that_works() -> None:
    looks = [{1: s, 2: s} for s in range(3)] + [{1: 3 + 90 * s, 2: 3} for s in range(5)]
    lanes = lanes_seen(*looks)
    assert not lanes.at_rest
    assert lanes.still_s() == 4


def test_stubs_that_were_never_seen_to_wake_by_themselves_tell_nothing() -> None:
    assert lanes_seen(*({1: 7} for _ in range(9))).still_s() == 0
    # That they wake while something is answered proves nothing either.
    assert lanes_seen({1: 1}, {1: 2}, {1: 2}, {1: 2}, answered=True).still_s() == 0


def test_a_lane_that_is_gone_is_not_still() -> None:
    looks = [{1: s, 2: s} for s in range(3)] + [{1: 3 + s} for s in range(9)]
    assert lanes_seen(*looks).still_s() == 0


def test_patience_grows_with_what_the_model_is_known_to_take() -> None:
    fast = Answers(100, 0.01, 8)
    assert patience_s(3, fast, 0.01, 8) == 3
    assert patience_s(3, Answers(100, 2.0, 8), 0.01, 8) == 10
    # Until it has had its largest batch, that is taken from the first.
    assert patience_s(3, Answers(1, 0.5, 1), 0.5, 8) == 8
    assert patience_s(3, Answers(1, 0.0, 0), 0.0, 0) == 3


def test_reads_what_triton_counts() -> None:
    statistics = service_pb2.ModelStatisticsResponse()
    for version in ("1", "2"):
        model = statistics.model_stats.add(name="m", version=version)
        model.inference_stats.success.count = 5
        model.inference_stats.fail.count = 1
    for size, total_ns in ((1, 2 * 10**9), (4, 3 * 10**9)):
        batch = model.batch_stats.add(batch_size=size)
        batch.compute_infer.count, batch.compute_infer.ns = 4, total_ns
    model.batch_stats.add(batch_size=64)
    assert read_statistics(statistics) == Answers(12, 0.75, 4)
