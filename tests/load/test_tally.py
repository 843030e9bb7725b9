import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.load.outcomes import CODES, NUMBER_OF_CODE, Columns
from paldia.load.tally import Histogram, Tally

times = st.lists(st.floats(1e-4, 100), min_size=1, max_size=300)


def _columns(latencies_s: np.ndarray, code: str = "OK", start_s: float = 0.0) -> Columns:
    intended_s = start_s + np.arange(len(latencies_s)) * 0.01
    return Columns(
        intended_s,
        np.zeros(len(latencies_s)),
        intended_s + latencies_s,
        np.full(len(latencies_s), NUMBER_OF_CODE[code], np.int16),
    )


@given(times, st.sampled_from([50, 90, 99, 99.9, 100]))
def test_percentiles_are_those_of_numpy_to_one_percent(times_s: list[float], percent: float):
    histogram = Histogram()
    histogram.add(np.array(times_s))
    count = len(times_s)
    # Its rank is the nearest to `percent` of the count; numpy's are from 0 on.
    rank = max(1, int(percent * count / 100 + 0.5))
    exact_s = np.sort(times_s)[rank - 1]
    assert histogram.percentile_s(percent) == pytest.approx(exact_s, rel=0.01)
    assert histogram.mean_s() == pytest.approx(np.mean(times_s))
    assert histogram.most_s == max(times_s)


def test_many_latencies_have_the_percentiles_that_numpy_gives():
    latencies_s = np.random.default_rng(5).lognormal(-4, 1.0, 50_000)
    tally = Tally(slo_s=None)
    for part in np.array_split(latencies_s, 7):
        tally.add(_columns(part))
    for percent in (50, 90, 99, 99.9):
        exact_s = float(np.percentile(latencies_s, percent))
        assert tally.latencies.percentile_s(percent) == pytest.approx(exact_s, rel=0.01)


@given(st.lists(times, min_size=1, max_size=5), st.floats(0, 3))
def test_parts_add_up_in_whatever_order_they_come(parts: list[list[float]], warmup_s: float):
    made = [
        _columns(np.array(part), CODES[at % len(CODES)], at * 0.7) for at, part in enumerate(parts)
    ]
    forward, backward = Tally(1.0, warmup_s), Tally(1.0, warmup_s)
    for columns in made:
        forward.add(columns)
    for columns in reversed(made):
        backward.add(columns)
    assert forward.by_code == backward.by_code
    assert forward.in_slo == backward.in_slo
    assert forward.latencies.percentile_s(99) == backward.latencies.percentile_s(99)
    offered = {number: second.offered for number, second in forward.seconds.items()}
    assert offered == {number: second.offered for number, second in backward.seconds.items()}
    # What came before the end of the warm-up is in the rows of negative seconds alone.
    assert sum(offered.values()) == sum(map(len, parts))
    assert sum(count for number, count in offered.items() if number >= 0) == forward.offered
    late_enough = sum(int((columns.intended_s >= warmup_s).sum()) for columns in made)
    assert forward.offered == late_enough


def test_a_window_holds_what_came_since_the_last():
    tally = Tally(slo_s=None)
    tally.add(_columns(np.full(10, 0.02)))
    tally.add(_columns(np.full(3, 0.001), "RESOURCE_EXHAUSTED"))
    tally.add(_columns(np.full(2, 0.001), "UNSENT"))
    window = tally.window()
    assert (window.answered, window.refused, window.failed) == (10, 3, 2)
    assert window.p50_s == pytest.approx(0.02)
    empty = tally.window()
    assert (empty.answered, empty.p50_s) == (0, None)
