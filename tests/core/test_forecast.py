"""Arrivals seen to arrivals expected."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.config import PolicyConfig
from paldia.core.forecast.base import RateEstimate
from paldia.core.sharing.queueing import pending_requests
from paldia.core.types import Slo

CONFIG = PolicyConfig()


def test_the_first_second_is_believed_at_once() -> None:
    assert RateEstimate().after(40, 1.0, CONFIG).requests_per_second == 40


@pytest.mark.parametrize(("last", "constant_s"), [(20, 1), (0, 3)])
def test_the_mean_follows_a_step_within_its_time_constant(last: float, constant_s: int) -> None:
    estimate = RateEstimate()
    for _ in range(60):
        estimate = estimate.after(10, 1.0, CONFIG)
    for _ in range(constant_s):
        estimate = estimate.after(last, 1.0, CONFIG)
    # 1 - 1/e of the way after one time constant, which is shorter for a rise.
    expected = 10 + (last - 10) * (1 - math.exp(-1))
    assert estimate.requests_per_second == pytest.approx(expected)


def test_no_new_report_changes_nothing() -> None:
    estimate = RateEstimate(5.0, 2.0, 10.0)
    assert estimate.after(0, 0.0, CONFIG) is estimate


def test_bursts_are_told_from_poisson_arrivals() -> None:
    rng = np.random.default_rng(7)
    steady, bursty = RateEstimate(), RateEstimate()
    for _ in range(400):
        steady = steady.after(int(rng.poisson(50)), 1.0, CONFIG)
        bursty = bursty.after(int(rng.poisson(5)) * 10, 1.0, CONFIG)
    assert 1 <= steady.dispersion < 3
    assert bursty.dispersion > 3


def test_a_ramp_does_not_pass_for_bursts() -> None:
    rng = np.random.default_rng(7)
    estimate = RateEstimate()
    for second in range(120):
        estimate = estimate.after(int(rng.poisson(2 * second)), 1.0, CONFIG)
    assert estimate.dispersion < 2


@given(st.floats(0, 500), st.floats(1, 20), st.floats(1, 1000), st.floats(0.01, 2), st.floats(0, 4))
def test_pending_is_bounded_by_a_window_of_arrivals_and_falls_with_capacity(
    rate: float, dispersion: float, capacity: float, window_s: float, z: float
) -> None:
    slo = Slo(window_s)
    pending = pending_requests(rate, dispersion, capacity, slo, z)
    at_once = rate * window_s + z * math.sqrt(rate * window_s * dispersion)
    assert 0 <= pending <= at_once * (1 + 1e-9)
    assert pending_requests(rate, dispersion, capacity * 2, slo, z) <= pending * (1 + 1e-9)


@pytest.mark.parametrize("rate", [40.0, 70.0, 90.0])
@pytest.mark.parametrize("share", [0.9, 0.99])
def test_a_simulated_queue_is_longer_as_often_as_predicted(rate: float, share: float) -> None:
    rng = np.random.default_rng(11)
    capacity = 100.0
    arrivals = np.cumsum(rng.exponential(1 / rate, 50_000))
    free_at, waiting = 0.0, []
    for arrival in arrivals:
        waiting.append(max(0.0, free_at - arrival) * capacity)
        free_at = max(free_at, arrival) + 1 / capacity
    bound = pending_requests(rate, 1.0, capacity, Slo(10.0, share), 2.0)
    # Whole requests are planned for, so the prediction is rounded up.
    longer = np.mean(np.array(waiting) > math.ceil(bound))
    # Heavy-traffic theory is optimistic at light load; it must not be off by more than this.
    assert (1 - share) / 10 < longer < (1 - share) * 3
