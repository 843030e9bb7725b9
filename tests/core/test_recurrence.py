"""What comes at the same minute of each hour."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.errors import InvalidArgumentError
from paldia.core.forecast.recurrence import HOURS_KEPT, Recurrence

HOUR_S = 3600.0


def seen(bursts: dict[int, float], hours: float, quiet: float = 5.0) -> Recurrence:
    """Watch a quiet rate, and in some minutes, counted from the start, another."""
    known = Recurrence()
    for second in range(0, int(hours * HOUR_S) + 1, 5):
        known = known.after(bursts.get(second // 60, quiet), float(second))
    return known


def test_a_burst_is_expected_at_the_same_minute_of_the_next_hour() -> None:
    known = seen({7: 100.0}, 1.0)
    at_s = HOUR_S + 7 * 60
    assert known.expected(at_s - 30, at_s + 30) == 100
    assert known.expected(at_s - 120, at_s - 61) == 5
    assert known.expected(at_s + 60, at_s + 120) == 5


@pytest.mark.parametrize(("hours", "expected"), [(1, 100), (2, 100), (3, 5), (4, 5)])
def test_a_burst_that_never_recurs_is_forgotten(hours: int, expected: float) -> None:
    known = seen({7: 100.0}, float(hours))
    at_s = hours * HOUR_S + 7 * 60
    assert known.expected(at_s, at_s) == expected


def test_a_burst_of_most_hours_stays_expected() -> None:
    known = seen({7: 100.0, 67: 80.0, 187: 90.0}, 4.0)
    at_s = 4 * HOUR_S + 7 * 60
    # Of the last three hours the second had none.
    assert known.expected(at_s, at_s) == 80


def test_nothing_is_expected_of_what_was_never_seen() -> None:
    assert Recurrence().expected(0.0, 1e6) == 0
    assert seen({}, 0.5).expected(0.6 * HOUR_S, 0.9 * HOUR_S) == 0


def test_requests_begin_where_they_came_after_a_pause() -> None:
    known = seen({7: 3.0, 8: 3.0, 30: 3.0, 31: 1e-9}, 1.0, quiet=0.0)

    def begins(minute: float, pause_s: float = 600.0) -> bool:
        at_s = HOUR_S + minute * 60
        return known.begins(at_s - 30, at_s + 29, pause_s)

    assert begins(7)
    assert begins(30)
    assert known.begins(HOUR_S + 6 * 60, HOUR_S + 7 * 60, 600.0), "ahead of it"
    assert not begins(9), "they went on from the minute before"
    assert not begins(6)
    assert not begins(32), "an average that fades is no request"
    assert not begins(30, pause_s=25 * 60), "the pause wasn't as long"
    assert not seen({}, 2.0).begins(2 * HOUR_S, 3 * HOUR_S, 600.0), "nothing begins that goes on"
    assert not Recurrence().begins(0.0, 1e6, 0.0)


samples = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 2e4)), max_size=60)


@given(samples)
def test_it_is_bounded_and_expects_nothing_it_has_not_seen(
    steps: list[tuple[float, float]],
) -> None:
    known, now_s = Recurrence(), 0.0
    for rate, pause_s in steps:
        now_s += pause_s
        known = known.after(rate, now_s)
    assert all(len(rates) <= HOURS_KEPT for rates in known.hours)
    assert known.expected(now_s, now_s + HOUR_S) <= max((rate for rate, _ in steps), default=0.0)


@given(samples)
def test_it_can_be_stored(steps: list[tuple[float, float]]) -> None:
    known, now_s = Recurrence(), 0.0
    for rate, pause_s in steps:
        now_s += pause_s
        known = known.after(rate, now_s)
    assert Recurrence.from_state(known.state()) == known


@pytest.mark.parametrize("state", [(), (1.0, 2.0), (math.nan,) * 182])
def test_what_is_no_state_is_refused(state: tuple[float, ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        Recurrence.from_state(state)
