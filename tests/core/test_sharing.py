"""How batches share a device: the design's table to its printed digits, and its laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.config import PolicyConfig
from paldia.core.profiles import Profile
from paldia.core.sharing.prediction import (
    ALONE,
    Demand,
    Neighbours,
    Way,
    batch_sizes,
    completion_time_s,
    predict,
    queued_batches,
    throughput,
)
from paldia.core.types import Slo

CONFIG = PolicyConfig()


def profile(demand: float, penalty: float, latency_s: float = 1.0) -> Profile:
    points = ((1, latency_s), (16, latency_s))
    return Profile(points, 0.0, 1, demand=((1, demand),), colocation_penalty=penalty)


TABLE = [
    (0.2, 0.10, 5, 2.80, 3.80, 0, 3.80),
    (0.5, 0.05, 2, 5.25, 7.25, 0, 7.25),
    (0.5, 0.10, 2, 5.50, 9.50, 4, 8.50),
    (0.7, 0.10, 2, 7.70, 13.30, 7, 9.52),
    (1.0, 0.10, 1, 10.0, 19.0, 9, 10.0),
]


@pytest.mark.parametrize(
    ("demand", "penalty", "lanes", "time_s", "space_s"), [r[:5] for r in TABLE]
)
def test_the_best_lanes_for_ten_batches(
    demand: float, penalty: float, lanes: int, time_s: float, space_s: float
) -> None:
    known = profile(demand, penalty)
    times = {k: round(float(completion_time_s(Way(known, 1, k), 10)), 9) for k in range(1, 11)}
    assert times[1] == pytest.approx(10.0)
    assert times[10] == pytest.approx(space_s)
    assert min(times, key=lambda k: (times[k], k)) == lanes
    assert times[lanes] == pytest.approx(time_s)


@pytest.mark.parametrize(
    ("demand", "penalty", "queued", "time_s"), [(*r[:2], *r[5:]) for r in TABLE]
)
def test_the_source_papers_split_of_ten_batches(
    demand: float, penalty: float, queued: int, time_s: float
) -> None:
    known = profile(demand, penalty)
    assert queued_batches(10, demand, penalty) == queued
    together = 10 - queued
    assert queued + float(known.slowdown(together, demand)) == pytest.approx(time_s, abs=0.005)


def test_a_batch_that_is_not_full_takes_no_longer_than_its_rows_need() -> None:
    known = Profile(((1, 1.0), (2, 2.0), (4, 4.0)), 0.0, 1, colocation_penalty=0.0)
    # Where batching gains nothing its limit makes no difference.
    assert {float(completion_time_s(Way(known, batch, 1), 5)) for batch in (1, 2, 4)} == {5.0}


profiles = st.builds(profile, st.floats(0.01, 1.0), st.floats(0.0, 0.2), st.floats(0.001, 10.0))


@given(profiles, st.integers(1, 200), st.integers(1, 16), st.integers(1, 16))
def test_more_pending_never_takes_less_time(
    known: Profile, pending: int, batch: int, lanes: int
) -> None:
    way = Way(known, batch, lanes)
    less = completion_time_s(way, pending)
    assert completion_time_s(way, pending + lanes * batch) >= less * (1 - 1e-9)


@given(profiles, st.integers(1, 200), st.integers(1, 16))
def test_the_best_lanes_are_never_worse_than_either_extreme(
    known: Profile, pending: int, batch: int
) -> None:
    batches = -(-pending // batch)
    times = [float(completion_time_s(Way(known, batch, k), pending)) for k in range(1, batches + 1)]
    assert min(times) <= min(times[0], times[-1])


@given(profiles, st.integers(1, 16), st.integers(1, 16), st.integers(1, 50))
def test_full_rounds_finish_at_the_rate_of_the_throughput(
    known: Profile, batch: int, lanes: int, rounds: int
) -> None:
    way, pending = Way(known, batch, lanes), rounds * lanes * batch
    expected_s = pending / float(throughput(way))
    assert completion_time_s(way, pending) == pytest.approx(expected_s)


@given(profiles, st.integers(1, 8), st.floats(0, 3), st.floats(0, 3))
def test_neighbours_never_speed_a_model_up(
    known: Profile, lanes: int, demand: float, batches: float
) -> None:
    way = Way(known, 1, lanes)
    beside = Neighbours(demand, batches)
    assert completion_time_s(way, 10, beside) >= completion_time_s(way, 10) * (1 - 1e-9)


@given(profiles, st.integers(1, 16), st.integers(1, 8), st.floats(0, 500), st.integers(0, 50))
def test_a_prediction_is_never_better_than_one_batch_alone(
    known: Profile, batch: int, lanes: int, rate: float, backlog: int
) -> None:
    demand = Demand(rate, 1.0, backlog, Slo(0.2))
    foretold = predict(Way(known, batch, lanes), demand, ALONE, CONFIG, lanes_limit=lanes)
    assert foretold.latency_s >= known.latency_s(1) * (1 - 1e-9)
    assert foretold.pending >= 1 + backlog


@given(st.integers(1, 1000))
def test_batch_sizes_rise_to_the_limit(limit: int) -> None:
    sizes = batch_sizes(limit)
    assert sizes[0] == 1
    assert sizes[-1] == limit
    assert list(sizes) == sorted(set(sizes))


def test_latency_is_linear_between_points_and_beyond() -> None:
    known = Profile(((1, 0.010), (4, 0.016), (8, 0.040)), 0.0, 1)
    assert known.latency_s(1) == 0.010
    assert known.latency_s(2) == pytest.approx(0.012)
    assert known.latency_s(6) == pytest.approx(0.028)
    assert known.latency_s(10) == pytest.approx(0.052)


def test_a_larger_batch_never_takes_less_though_measured_so() -> None:
    known = Profile(((1, 0.010), (2, 0.009)), 0.0, 1)
    assert known.latency_s(2) == 0.010


def test_a_process_held_to_fewer_sms_takes_longer_and_less_of_the_device_at_a_time() -> None:
    known = Profile(((1, 0.010),), 0.0, 1, demand=((1, 0.4),), sm_share=((1, 0.4),))
    assert known.latency_s(1, 20) == pytest.approx(0.020)
    assert known.demand_fraction(1, 20) == pytest.approx(0.2)
    assert known.latency_s(1, 50) == 0.010


def test_a_measured_curve_stands_in_for_the_formula_and_goes_on_as_it_does() -> None:
    known = Profile(
        ((1, 0.010),), 0.0, 1, demand=((1, 0.5),), colocation_penalty=0.1, interference=(1.0, 1.5)
    )
    assert known.slowdown(2, 0.5) == pytest.approx(1.5)
    formula = [max(1.0, n * 0.5) * (1 + 0.1 * (n - 1)) for n in (2, 4)]
    assert known.slowdown(4, 0.5) == pytest.approx(1.5 * formula[1] / formula[0])
