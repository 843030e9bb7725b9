"""Profiles for hardware that a model wasn't measured on."""

import pytest

from paldia.core.estimates import estimated, relative_latency
from paldia.core.profiles import Profile, Provenance
from paldia.core.types import Hardware

SMALL = Hardware("small", 0.1, 1 << 33, cores=2)
LARGE = Hardware("large", 0.4, 1 << 34, cores=8)
CARD = Hardware("card", 1.0, 1 << 34, cores=8, gpus=1)
MEASURED = Profile(
    ((1, 0.010), (8, 0.040)),
    2.0,
    1 << 20,
    demand=((1, 0.5),),
    sm_share=((1, 0.3),),
    interference=(1.0, 1.2),
    watts=70.0,
)


def test_other_models_tell_how_fast_a_kind_is() -> None:
    def pair(ratio: float) -> tuple[Profile, Profile]:
        slower = tuple((size, latency_s * ratio) for size, latency_s in MEASURED.points)
        return Profile(slower, 1.0, 1), MEASURED

    assert relative_latency([pair(2.0), pair(3.0), pair(40.0)]) == pytest.approx(3.0)
    assert relative_latency([(Profile(((2, 1.0),), 1.0, 1), MEASURED)]) == 1.0
    assert relative_latency([]) == 1.0


def test_latencies_are_scaled_and_it_says_what_it_is() -> None:
    found = estimated(MEASURED, 0.5, SMALL, LARGE)
    assert found.points == ((1, 0.005), (8, 0.020))
    assert found.provenance is Provenance.ESTIMATED
    assert (found.load_s, found.memory_bytes) == (2.0, 1 << 20)
    assert (found.interference, found.sm_share, found.watts) == ((), (), 0.0)


def test_the_same_threads_are_another_share_of_the_cores() -> None:
    assert estimated(MEASURED, 1.0, SMALL, LARGE).demand == ((1, 0.125),)
    assert estimated(MEASURED, 1.0, LARGE, SMALL).demand == ((1, 1.0),)
    assert estimated(MEASURED, 1.0, SMALL, CARD).demand == MEASURED.demand
