"""How long a worker waits for requests to merge, by how busy it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paldia_frontend.effort import BUSY_FROM, GATHER_MOST_S, Effort


def worked(busy: float, seconds: float = 3.0) -> Effort:
    effort = Effort()
    for step in range(int(seconds / 0.1) + 1):
        effort.sample(7.0 + 0.1 * step, 0.1 * step * busy)
    return effort


def test_one_that_has_time_waits_for_nobody():
    assert Effort().gather_s == worked(0.0).gather_s == worked(BUSY_FROM).gather_s == 0.0


def test_one_that_is_busy_all_the_time_waits_longest():
    assert worked(1.0).gather_s > 0.99 * GATHER_MOST_S
    # Several threads may take more than a core.
    assert worked(1.6).gather_s == GATHER_MOST_S


def test_it_stops_waiting_once_it_has_time_again():
    effort = worked(1.0)
    for step in range(30):
        effort.sample(20.0 + 0.1 * step, 3.0)
    assert effort.gather_s == 0.0


@given(st.floats(0, 2), st.floats(0, 2))
def test_the_busier_the_longer(one: float, other: float):
    less, more = sorted((one, other))
    assert 0.0 <= worked(less).gather_s <= worked(more).gather_s + 1e-12
    assert worked(more).gather_s <= GATHER_MOST_S


def test_a_clock_that_stands_still_changes_nothing():
    effort = worked(1.0)
    before = effort.gather_s
    effort.sample(effort._as_of_s or 0.0, 99.0)
    assert effort.gather_s == before
