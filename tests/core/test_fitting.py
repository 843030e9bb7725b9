"""Demand, penalty and SM share from what was measured."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.errors import InvalidArgumentError
from paldia.core.fitting import (
    APART,
    FULL_SPEED,
    common_curve,
    fit_sharing,
    least_sm_share,
)
from paldia.core.profiles import Profile

LONGEST = 8


def curve(demand: float, penalty: float, lanes: int) -> tuple[float, ...]:
    return tuple(max(1.0, k * demand) * (1 + penalty * (k - 1)) for k in range(1, lanes + 1))


@given(st.floats(0.3, 1.0), st.floats(0.0, 0.4))
def test_what_bites_twice_is_recovered(demand: float, penalty: float) -> None:
    # Four, or up to two past 1 / f, as it is measured.
    lanes = max(4, int(1 / demand) + 2)
    fit = fit_sharing({4: curve(demand, penalty, lanes)})
    if not fit.is_bound:
        assert dict(fit.demand)[4] == pytest.approx(demand, abs=0.05)
        assert fit.penalty == pytest.approx(penalty, abs=0.05)
    assert fit.error < 0.011
    ((_, low, high),) = fit.between
    assert low - 0.004 <= demand <= high + 0.004


@given(st.floats(0.3, 0.95), st.floats(0.0, 0.3))
def test_a_long_curve_leaves_nothing_open(demand: float, penalty: float) -> None:
    fit = fit_sharing({1: curve(demand, penalty, LONGEST)})
    assert not fit.is_bound
    assert dict(fit.demand)[1] == pytest.approx(demand, abs=0.02)
    assert fit.penalty == pytest.approx(penalty, abs=0.02)


@given(st.floats(0.4, 1.0), st.floats(0.4, 1.0), st.floats(0.0, 0.3))
def test_sizes_have_their_own_demand_and_one_penalty(
    small: float, large: float, penalty: float
) -> None:
    fit = fit_sharing({1: curve(small, penalty, LONGEST), 16: curve(large, penalty, LONGEST)})
    assert dict(fit.demand)[1] == pytest.approx(small, abs=0.03)
    assert dict(fit.demand)[16] == pytest.approx(large, abs=0.03)
    assert fit.penalty == pytest.approx(penalty, abs=0.03)


@given(st.floats(0.01, 0.2), st.floats(0.0, 0.3))
def test_what_never_bites_has_a_bound(demand: float, penalty: float) -> None:
    fit = fit_sharing({1: curve(demand, penalty, 4)})
    assert fit.is_bound
    # Four of them at a time fit: each takes a quarter at most.
    assert 0.25 <= dict(fit.demand)[1] <= 0.27
    assert fit.between[0][1] <= demand
    assert fit.penalty == pytest.approx(penalty, abs=0.02)


@given(st.floats(0.02, 0.2))
def test_in_a_wide_range_what_is_known_otherwise_stands(known: float) -> None:
    fit = fit_sharing({1: (1.0, 1.0, 1.0, 1.0)}, known)
    assert dict(fit.demand)[1] == pytest.approx(known, abs=0.003)
    assert fit.is_bound


def test_what_is_known_otherwise_doesnt_overrule_the_slowdowns() -> None:
    assert dict(fit_sharing({1: curve(0.6, 0.1, LONGEST)}, 0.2).demand)[1] == pytest.approx(
        0.6, abs=0.02
    )
    assert dict(fit_sharing({1: (1.0, 1.0, 1.0, 1.0)}, 0.9).demand)[1] < 0.27


@given(
    st.floats(0.3, 0.9),
    st.floats(0.0, 0.2),
    st.lists(st.floats(0.97, 1.03), min_size=LONGEST, max_size=LONGEST),
)
def test_three_percent_of_noise_moves_it_little(
    demand: float, penalty: float, noise: list[float]
) -> None:
    measured = [s * n for s, n in zip(curve(demand, penalty, LONGEST), noise, strict=True)]
    fit = fit_sharing({1: measured})
    if not fit.is_bound:
        assert dict(fit.demand)[1] == pytest.approx(demand, abs=APART)
    assert fit.error < 0.035


def test_a_fit_that_is_off_says_so() -> None:
    assert fit_sharing({1: (1.0, 3.0, 1.0, 3.0)}).error > 0.2


@pytest.mark.parametrize("curves", [{}, {1: ()}, {1: (1.0, 0.0)}])
def test_nothing_to_fit_is_refused(curves: dict[int, tuple[float, ...]]) -> None:
    with pytest.raises(InvalidArgumentError):
        fit_sharing(curves)


def test_sizes_that_slow_alike_have_one_curve() -> None:
    assert common_curve({1: (1.0, 1.5, 2.0), 8: (1.0, 1.6, 2.2)}) == pytest.approx((1.0, 1.55, 2.1))
    assert common_curve({1: (1.0, 1.0, 1.1), 8: (1.0, 1.6, 2.2)}) == ()
    assert common_curve({}) == ()


@given(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=8))
def test_a_curve_never_falls_and_a_profile_takes_it(slowdowns: list[float]) -> None:
    risen = common_curve({1: slowdowns})
    assert risen[0] >= 1
    assert all(low <= high for low, high in itertools.pairwise(risen))
    Profile(((1, 0.01),), 1.0, 1, interference=risen)


@given(st.floats(0.12, 1.0))
def test_an_sm_share_is_found_to_the_slope_that_the_ladder_has(share: float) -> None:
    ladder = range(10, 101, 10)
    found = least_sm_share([(s, 0.01 * max(1.0, share * 100 / s)) for s in ladder])
    # 95 % of the speed is had at 95 % of the share, give or take the step of the ladder.
    assert found == pytest.approx(share * FULL_SPEED, abs=0.06)


def test_a_kernel_that_fits_the_smallest_share_needs_no_more() -> None:
    assert least_sm_share([(10, 0.01), (50, 0.0099), (100, 0.01)]) == pytest.approx(0.1)
    assert least_sm_share([(100, 0.01)]) == 1.0


@pytest.mark.parametrize(
    "latencies", [[], [(50, 0.01)], [(50, 0.01), (40, 0.01), (100, 0.01)], [(100, 0.0)]]
)
def test_a_ladder_that_makes_no_sense_is_refused(latencies: list[tuple[int, float]]) -> None:
    with pytest.raises(InvalidArgumentError):
        least_sm_share(latencies)
