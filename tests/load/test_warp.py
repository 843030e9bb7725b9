from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import paldia
from paldia.core.errors import InvalidArgumentError
from paldia.load.arrivals import read_arrivals
from paldia.load.warp import RateProfile, warp

rates = st.floats(0, 200)
profiles = st.lists(st.tuples(st.floats(0.1, 20), rates), min_size=1, max_size=5).flatmap(
    lambda pieces: st.builds(
        lambda first: RateProfile(
            (
                (0.0, first),
                *zip(
                    np.cumsum([width for width, _ in pieces]).tolist(),
                    [rate for _, rate in pieces],
                    strict=True,
                ),
            )
        ),
        rates.filter(lambda first: first + max(rate for _, rate in pieces) > 1),
    )
)
gaps = st.lists(st.floats(0, 100), min_size=2, max_size=200)


def _expected(profile: RateProfile, time_s: float) -> float:
    """The area under the profile up to a time, by hand."""
    area = 0.0
    for (start_s, first), (end_s, last) in zip(profile.points, profile.points[1:], strict=False):
        width_s = min(max(time_s - start_s, 0), end_s - start_s)
        area += width_s * (first + (last - first) * width_s / (end_s - start_s) / 2)
    return area


@given(profiles, st.floats(0, 1))
def test_time_of_inverts_the_area(profile: RateProfile, share: float) -> None:
    count = share * profile.requests
    (time_s,) = profile.time_of(np.array([count]))
    assert 0 <= time_s <= profile.duration_s
    assert _expected(profile, time_s) == pytest.approx(count, abs=1e-6 * profile.requests)


@given(gaps, profiles)
def test_warp_keeps_every_arrival_in_order_within_the_time(
    gaps_s: list[float], profile: RateProfile
) -> None:
    count = max(1, round(profile.requests))
    arrivals_s = np.cumsum(np.resize(gaps_s, count + 1))
    assume(arrivals_s[-1] > arrivals_s[0] + 1e-3)
    offsets_s = warp(arrivals_s, profile)
    assert len(offsets_s) == count
    assert offsets_s[0] >= 0
    assert offsets_s[-1] <= profile.duration_s
    assert (np.diff(offsets_s) >= -1e-9).all()


@given(profiles)
def test_even_arrivals_follow_the_profile_to_one_request(profile: RateProfile) -> None:
    count = max(1, round(profile.requests))
    offsets_s = warp(np.arange(count + 1.0), profile)
    for time_s in np.linspace(0, profile.duration_s, 7):
        sent = np.searchsorted(offsets_s, time_s)
        assert abs(sent - _expected(profile, time_s) * count / profile.requests) <= 1 + 1e-6


@given(gaps, st.floats(1, 100))
def test_a_constant_rate_keeps_the_ratios_of_gaps(gaps_s: list[float], rate: float) -> None:
    count = len(gaps_s) - 1
    assume(sum(gaps_s[1:]) > 1e-3)
    arrivals_s = np.cumsum(gaps_s)
    offsets_s = warp(arrivals_s, RateProfile.ramp(count / rate, rate, rate))
    scale = (count / rate) / (arrivals_s[count] - arrivals_s[0])
    assert np.diff(offsets_s) == pytest.approx(np.diff(arrivals_s[:count]) * scale, abs=1e-6)


def test_a_ramp_of_30_s_from_half_to_one_and_a_half() -> None:
    profile = RateProfile.ramp(30.0, 20.0, 60.0)
    assert profile.requests == 1200
    offsets_s = warp(np.arange(1201.0), profile)
    per_second = np.histogram(offsets_s, bins=np.arange(31))[0]
    assert per_second.sum() == 1200
    assert abs(per_second[0] - 20.7) < 2
    assert abs(per_second[-1] - 59.3) < 2


def test_the_carried_slice_is_what_its_header_says() -> None:
    path = Path(paldia.__file__).parent / "samples" / "traces" / "azure_llm_2023_conv.csv"
    arrivals_s = read_arrivals(str(path))
    gaps_s = np.diff(arrivals_s)
    assert len(arrivals_s) == 6000
    assert f"{gaps_s.std() / gaps_s.mean():.3f}" == "1.071"
    assert "CC-BY-4.0" in path.read_text()
    assert "Attribution 4.0 International" in path.with_name("LICENSE").read_text()


def test_too_short_a_trace_says_how_many_are_wanted() -> None:
    with pytest.raises(InvalidArgumentError, match=r"asks for 40 requests .* has only 40"):
        warp(np.arange(40.0), RateProfile.ramp(4.0, 10.0, 10.0))
    with pytest.raises(InvalidArgumentError, match="same time"):
        warp(np.zeros(50), RateProfile.ramp(4.0, 10.0, 10.0))


@pytest.mark.parametrize(
    "points",
    [((0.0, 1.0),), ((1.0, 1.0), (2.0, 1.0)), ((0.0, 1.0), (0.0, 2.0)), ((0.0, 0.0), (9.0, 0.0))],
)
def test_profiles_that_make_no_sense_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        RateProfile(points)


def test_the_rest_of_a_longer_trace_changes_nothing() -> None:
    profile = RateProfile.ramp(10.0, 1.0, 3.0)
    arrivals_s = np.cumsum(np.linspace(1, 2, 50))
    assert warp(arrivals_s, profile).tolist() == warp(arrivals_s[:21], profile).tolist()
