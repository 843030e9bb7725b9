"""Profiles corrected by what is seen."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.correction import (
    MEMORY_BATCHES,
    RATIO_LIMIT,
    STALE_ERROR,
    STEP,
    TRUSTED_BATCHES,
    Correction,
    applied_ratio,
    batch_ratio,
    corrected,
)
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile

PROFILE = Profile(((1, 0.010), (8, 0.040)), 1.0, 1)


def after(ratios: list[float]) -> Correction:
    correction = Correction()
    for ratio in ratios:
        correction = correction.after(batch_ratio(0.010 * ratio, 0.010))
    return correction


@given(st.floats(1 / RATIO_LIMIT, RATIO_LIMIT), st.integers(1, 400))
def test_a_steady_ratio_is_learned_from_the_first_batch_on(ratio: float, batches: int) -> None:
    assert after([ratio] * batches).ratio == pytest.approx(ratio)


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=MEMORY_BATCHES))
def test_the_first_batches_count_alike(ratios: list[float]) -> None:
    assert after(ratios).ratio == pytest.approx(sum(ratios) / len(ratios))


def test_an_old_observation_fades_to_one_over_e() -> None:
    correction = after([2.0] * 10 * MEMORY_BATCHES + [1.0] * MEMORY_BATCHES)
    assert correction.error == pytest.approx(math.exp(-1), rel=0.01)


def test_one_pause_of_the_machine_hardly_counts() -> None:
    assert after([1.0] * MEMORY_BATCHES + [1e6]).error <= RATIO_LIMIT / MEMORY_BATCHES


@pytest.mark.parametrize(
    ("ratio", "batches", "stale"),
    [
        (1 + STALE_ERROR * 1.1, MEMORY_BATCHES, True),
        (1 - STALE_ERROR * 1.1, MEMORY_BATCHES, True),
        (1 + STALE_ERROR * 1.1, MEMORY_BATCHES - 1, False),
        (1 + STALE_ERROR * 0.9, 10 * MEMORY_BATCHES, False),
    ],
)
def test_a_profile_far_off_for_long_is_stale(ratio: float, batches: int, stale: bool) -> None:
    assert after([ratio] * batches).is_stale is stale


def test_every_latency_is_corrected_and_nothing_else() -> None:
    slower = corrected(PROFILE, 1.5)
    assert slower.latency_s(1) == pytest.approx(0.015)
    assert slower.latency_s(8) == pytest.approx(0.060)
    assert slower.demand == PROFILE.demand
    assert corrected(PROFILE, 1.0) is PROFILE


@given(st.lists(st.floats(0.2, 5.0), max_size=300), st.floats(0.2, 5.0), st.integers(0, 500))
def test_batches_told_together_count_as_one_by_one(
    before: list[float], ratio: float, batches: int
) -> None:
    start = after(before)
    together = start.after(ratio, batches)
    one_by_one = start
    for _ in range(batches):
        one_by_one = one_by_one.after(ratio)
    assert together.ratio == pytest.approx(one_by_one.ratio)
    assert together.batches == one_by_one.batches


def test_the_factor_in_use_changes_in_steps_and_on_the_word_of_enough() -> None:
    assert applied_ratio(1.0, Correction(2.0, TRUSTED_BATCHES - 1)) == 1.0
    assert applied_ratio(1.0, Correction(2.0, TRUSTED_BATCHES)) == 2.0
    assert applied_ratio(2.0, Correction(2.0 * (1 + STEP * 0.9), 100)) == 2.0
    assert applied_ratio(2.0, Correction(2.0 * (1 + STEP * 1.1), 100)) == pytest.approx(2.11)


@pytest.mark.parametrize("observed_s", [0.0, -1.0, math.nan])
def test_a_batch_that_took_no_time_is_refused(observed_s: float) -> None:
    with pytest.raises(InvalidArgumentError):
        batch_ratio(observed_s, 0.01)


@pytest.mark.parametrize(("ratio", "batches"), [(0.0, 1), (math.nan, 1), (math.inf, 1), (1.0, -1)])
def test_what_makes_no_sense_is_not_counted(ratio: float, batches: int) -> None:
    with pytest.raises(InvalidArgumentError):
        Correction().after(ratio, batches)
