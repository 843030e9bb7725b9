"""What the nouns accept."""

import math
from typing import Any

import pytest

from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile
from paldia.core.types import Model, Slo


@pytest.mark.parametrize("latency_s", [0, -1, math.inf, math.nan, 1e9])
def test_an_slo_needs_a_sensible_latency(latency_s: float) -> None:
    with pytest.raises(InvalidArgumentError, match="latency"):
        Slo(latency_s)


@pytest.mark.parametrize("share", [0, 1, 99, math.nan])
def test_an_slo_needs_a_share_between_0_and_1(share: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"0\.99 is 99 %"):
        Slo(0.1, share)


@pytest.mark.parametrize(
    "option",
    [{"max_batch": -1}, {"min_replicas": -1}, {"keep_alive_s": -1}, {"keep_alive_s": 1e300}],
)
def test_a_model_refuses_what_makes_no_sense(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Model("m", "d", Slo(0.1), **option)


@pytest.mark.parametrize(
    "option",
    [
        {"margin": 1.0},
        {"saving_margin": 0.95},
        {"rate_rise_constant_s": 0},
        {"wait_limit_s": -1},
        {"lanes_limit": 0},
        {"burst_z": -1},
    ],
)
def test_a_policy_refuses_what_makes_no_sense(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        PolicyConfig(**option)


@pytest.mark.parametrize("points", [(), ((2, 1.0), (1, 1.0)), ((0, 1.0),), ((1, 0.0),)])
def test_a_profile_needs_rising_sizes_and_real_latencies(points: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        Profile(points, 0.0, 1)


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_profile_needs_a_share_of_the_device(fraction: float) -> None:
    with pytest.raises(InvalidArgumentError):
        Profile(((1, 1.0),), 0.0, 1, demand=((1, fraction),))


@pytest.mark.parametrize(
    "figures",
    [
        {"colocation_penalty": float("nan")},
        {"watts": float("nan")},
        {"interference": (1.0, float("nan"))},
        {"interference": (0.9,)},
    ],
)
def test_a_profile_takes_no_figure_that_makes_no_sense(figures: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Profile(((1, 1.0),), 0.0, 1, **figures)
