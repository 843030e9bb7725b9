"""What a batch takes of the device at sizes that weren't measured."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.profiles import Profile
from paldia.core.sharing.costs import costs_of

# BERT on a V100 as the catalog has it: shares from the kernels, one size after the other.
LATENCIES = (
    *((1, 0.005085), (2, 0.006845), (4, 0.01082), (8, 0.01813), (16, 0.0345819), (32, 0.0679577)),
)
SHARES = {1: 0.448, 2: 0.631, 4: 0.783, 8: 0.869, 16: 0.906, 32: 0.920}
V100 = Profile(points=LATENCIES, load_s=1.0, memory_bytes=1, demand=((1, 0.448), (8, 0.869)))

SIZES = st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True).map(sorted)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    sizes, shared = draw(SIZES), draw(SIZES)
    seconds = st.floats(1e-4, 10.0)
    share = st.floats(0.01, 1.0)
    return Profile(
        points=tuple((size, draw(seconds)) for size in sizes),
        load_s=1.0,
        memory_bytes=1,
        demand=tuple((size, draw(share)) for size in shared),
    )


def test_two_sizes_tell_the_others():
    for size, share in SHARES.items():
        assert V100.demand_fraction(size) == pytest.approx(share, abs=0.05)


def test_work_grows_evenly_with_the_rows():
    work_s = [V100.demand_fraction(size) * V100.latency_s(size) for size in range(1, 9)]
    steps = [more - less for less, more in itertools.pairwise(work_s)]
    assert steps == pytest.approx([steps[0]] * 7)


def test_a_single_size_says_nothing_of_others():
    alone = replace(V100, demand=((4, 0.3),))
    assert {alone.demand_fraction(size) for size in (1, 4, 32)} == {0.3}


@given(profiles(), st.integers(1, 200))
def test_shares_are_those_measured_and_never_more_than_all(profile: Profile, batch: int):
    assert all(profile.demand_fraction(size) == share for size, share in profile.demand)
    assert 0 < profile.demand_fraction(batch) <= 1


@given(profiles())
def test_tables_hold_what_the_profile_says(profile: Profile):
    table = costs_of(profile, 100).demand
    for batch in range(1, profile.largest_batch + 1):
        assert table[batch] == pytest.approx(profile.demand_fraction(batch), rel=1e-9)
