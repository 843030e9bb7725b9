"""The yardstick of the forecasters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench import forecast_score as score
from bench.forecast_score import Load
from paldia.core.errors import InvalidArgumentError
from paldia.core.forecast.base import RateEstimate

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("quantile", "forecast", "loss"),
    [(0.5, 8, 1.0), (0.5, 12, 1.0), (0.9, 8, 1.8), (0.9, 12, 0.2), (0.99, 8, 1.98), (0.99, 10, 0)],
)
def test_too_little_costs_the_quantile_and_too_much_the_rest(
    quantile: float, forecast: float, loss: float
) -> None:
    assert score.pinball(np.array([10.0]), np.array([float(forecast)]), quantile) == pytest.approx(
        loss
    )


def test_it_is_a_mean_over_what_is_known() -> None:
    truth, forecast = np.array([10.0, math.nan, 4.0]), np.array([8.0, 99.0, 4.0])
    assert score.pinball(truth, forecast, 0.5) == pytest.approx(0.5)
    with pytest.raises(InvalidArgumentError, match="no truth"):
        score.pinball(np.array([math.nan]), np.array([1.0]), 0.5)


@given(arrays(np.float64, 99, elements=finite), st.sampled_from([0.5, 0.9, 0.99]), finite)
def test_nothing_constant_beats_the_quantile(
    truth: np.ndarray, quantile: float, other: float
) -> None:
    best = np.quantile(truth, quantile, method="inverted_cdf")
    loss = score.pinball(truth, np.full(99, best), quantile)
    assert loss <= score.pinball(truth, np.full(99, other), quantile) + 1e-6


def test_the_truth_is_what_comes_next() -> None:
    rates = [5 * second for second in range(200)]
    made = Load("ramp", np.repeat(np.arange(200), 5))
    assert made.per_second.tolist() == rates
    second, ten = score.truth(made, 1.0), score.truth(made, 10.0)
    window = score.truth(made, 0.2)
    assert second[100] == rates[101]
    assert ten[100] == rates[110]
    assert window[100] == 101 / 0.2
    assert np.isnan(second[: score.SETTLING_S]).all()
    assert np.isnan(second[-1:]).all()
    assert np.isnan(ten[-10:]).all()
    assert not np.isnan(ten[score.SETTLING_S : -10]).any()


def test_a_forecast_knows_nothing_of_what_comes_after_it() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(8, 1500)
    changed = counts.copy()
    changed[1000:] = 90
    one = score.forecasts(RateEstimate(), Load("a", counts))
    other = score.forecasts(RateEstimate(), Load("b", changed))
    for key, said in one.items():
        assert said[:200].tolist() == other[key][:200].tolist()
        assert said[200:].tolist() != other[key][200:].tolist()


def test_a_perfect_forecast_is_always_kept_and_costs_nothing() -> None:
    made = Load("steady", np.full(1000, 4))
    said = score.last_value(made)
    assert set(score.losses(said, made).values()) == {0.0}
    assert set(score.coverage(said, made).values()) == {1.0}
