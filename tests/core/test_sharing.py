"""How batches share a device: the design's table to its printed digits, and its laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.profiles import Profile
from paldia.core.sharing import (
    Neighbours,
    batch_sizes,
    busy_share,
    completion_time_s,
    throughput,
)


def profile(demand: float, penalty: float, latency_s: float = 1.0) -> Profile:
    return Profile(((1, latency_s),), 0.0, 1, demand, penalty)


@pytest.mark.parametrize(
    ("demand", "penalty", "lanes", "time_s", "space_s"),
    [
        (0.2, 0.10, 5, 2.80, 3.80),
        (0.5, 0.05, 2, 5.25, 7.25),
        (0.5, 0.10, 2, 5.50, 9.50),
        (0.7, 0.10, 2, 7.70, 13.30),
        (1.0, 0.10, 1, 10.0, 19.0),
    ],
)
def test_the_best_lanes_for_ten_batches(
    demand: float, penalty: float, lanes: int, time_s: float, space_s: float
) -> None:
    known = profile(demand, penalty)
    times = {k: round(completion_time_s(known, 10, 1, k), 9) for k in range(1, 11)}
    assert times[1] == pytest.approx(10.0)
    assert times[10] == pytest.approx(space_s)
    assert min(times, key=lambda k: (times[k], k)) == lanes
    assert times[lanes] == pytest.approx(time_s)


def test_a_batch_that_is_not_full_takes_no_longer_than_its_rows_need() -> None:
    known = Profile(((1, 1.0), (2, 2.0), (4, 4.0)), 0.0, 1, 1.0, 0.0)
    # Where batching gains nothing its limit makes no difference.
    assert {completion_time_s(known, 5, batch, 1) for batch in (1, 2, 4)} == {5.0}


profiles = st.builds(profile, st.floats(0.01, 1.0), st.floats(0.0, 0.2), st.floats(0.001, 10.0))


@given(profiles, st.integers(1, 200), st.integers(1, 16), st.integers(1, 16))
def test_more_pending_never_takes_less_time(
    known: Profile, pending: int, batch: int, lanes: int
) -> None:
    less = completion_time_s(known, pending, batch, lanes)
    more = completion_time_s(known, pending + lanes * batch, batch, lanes)
    assert more >= less * (1 - 1e-9)


@given(profiles, st.integers(1, 16), st.integers(1, 16), st.integers(1, 50))
def test_full_rounds_finish_at_the_rate_of_the_throughput(
    known: Profile, batch: int, lanes: int, rounds: int
) -> None:
    pending = rounds * lanes * batch
    expected_s = pending / throughput(known, batch, lanes)
    assert completion_time_s(known, pending, batch, lanes) == pytest.approx(expected_s)


@given(profiles, st.integers(1, 8), st.floats(0, 3), st.floats(0, 3))
def test_neighbours_never_speed_a_model_up(
    known: Profile, lanes: int, demand: float, batches: float
) -> None:
    alone = completion_time_s(known, 10, 1, lanes)
    assert completion_time_s(known, 10, 1, lanes, Neighbours(demand, batches)) >= alone * (1 - 1e-9)


@given(st.integers(1, 1000))
def test_batch_sizes_rise_to_the_limit(limit: int) -> None:
    sizes = batch_sizes(limit)
    assert sizes[0] == 1
    assert sizes[-1] == limit
    assert list(sizes) == sorted(set(sizes))


def test_busy_share_counts_running_batches() -> None:
    assert busy_share(profile(1.0, 0.0, latency_s=0.1), batch=2, requests_per_second=10) == 1.0


def test_latency_is_linear_between_points_and_beyond() -> None:
    known = Profile(((1, 0.010), (4, 0.016), (8, 0.040)), 0.0, 1)
    assert known.latency_s(1) == 0.010
    assert known.latency_s(2) == pytest.approx(0.012)
    assert known.latency_s(6) == pytest.approx(0.028)
    assert known.latency_s(10) == pytest.approx(0.052)


def test_a_larger_batch_never_takes_less_though_measured_so() -> None:
    known = Profile(((1, 0.010), (2, 0.009)), 0.0, 1)
    assert known.latency_s(2) == 0.010
