"""Sources of arrivals, and what can be done to a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core.errors import InvalidArgumentError
from paldia.sim.scenario import Times
from paldia.sim.trace import Trace
from paldia.sim.trace_sources import CHUNK, Counted, Recorded, Source, Steady

same_each_time = settings(deadline=None, derandomize=True)

counts = st.lists(st.integers(0, 60), min_size=1, max_size=30).filter(any)
milliseconds = st.integers(0, 300_000).map(lambda number: number / 1000)
times = st.lists(milliseconds, min_size=1, max_size=80).map(sorted)
factors = st.floats(0.01, 9)
seeds = st.integers(0, 2**40)


def counted(numbers: Sequence[int], interval_s: float = 60.0) -> Counted:
    return Counted(np.array(numbers, np.int64), interval_s)


def recorded(moments: Sequence[float], block: int = 7) -> Recorded:
    at = np.array(moments, float) - moments[0]

    def blocks() -> Iterator[Times]:
        for first in range(0, len(at), block):
            yield at[first : first + block]

    return Recorded(blocks, float(at[-1]) + 1.0)


sources = st.one_of(
    st.builds(counted, counts, st.sampled_from((1.0, 60.0))),
    st.builds(recorded, times),
    st.builds(Steady, st.floats(0.1, 20), st.floats(1, 100)),
)


def arrivals(trace: Trace) -> Times:
    return np.concatenate([np.empty(0), *trace.chunks()])


def dispersion(at: Times, width_s: float) -> float:
    number = np.bincount((at / width_s).astype(int))
    return float(number.var() / number.mean())


@same_each_time
@given(counts, st.sampled_from((1.0, 60.0)), seeds)
def test_each_interval_holds_what_was_counted(
    numbers: list[int], interval_s: float, seed: int
) -> None:
    at = arrivals(Trace("t", counted(numbers, interval_s), seed))
    found = np.bincount((at // interval_s).astype(int), minlength=len(numbers))
    assert found.tolist() == numbers


@same_each_time
@given(times)
def test_single_requests_come_when_they_were_recorded(moments: list[float]) -> None:
    at = arrivals(Trace("t", recorded(moments)))
    assert at.tolist() == [moment - moments[0] for moment in moments]


@same_each_time
@given(sources, factors, seeds)
def test_arrivals_ascend_within_the_trace_and_come_again(
    source: Source, factor: float, seed: int
) -> None:
    trace = Trace("t", source, seed).scaled(factor)
    at = arrivals(trace)
    assert np.all(np.diff(at) >= 0)
    assert not len(at) or (at[0] >= 0 and at[-1] < trace.duration_s)
    assert np.array_equal(at, arrivals(trace))


@same_each_time
@given(sources, factors, st.floats(0, 0.9), st.floats(0.05, 1), st.floats(0.1, 100))
def test_a_part_is_what_the_whole_has_there(
    source: Source, factor: float, start: float, length: float, speed: float
) -> None:
    whole = Trace("t", source).scaled(factor).faster(speed)
    start_s, length_s = start * whole.duration_s, length * whole.duration_s
    part = whole.part(start_s, length_s)
    assert part.duration_s == pytest.approx(min(length_s, whole.duration_s - start_s))
    at, found = arrivals(whole) - start_s, arrivals(part)
    # What comes at the very edge may fall to either side by rounding.
    edge_s = 1e-9 * (1 + whole.duration_s)
    surely = np.sum((at > edge_s) & (at < part.duration_s - edge_s))
    maybe = at[(at > -edge_s) & (at < part.duration_s + edge_s)]
    assert surely <= len(found) <= len(maybe)
    assert all(np.min(np.abs(maybe - moment_s)) <= edge_s for moment_s in found)


@same_each_time
@given(sources, st.floats(0.01, 1000))
def test_speed_divides_time(source: Source, speed: float) -> None:
    trace = Trace("t", source)
    assert trace.faster(speed).duration_s == pytest.approx(trace.duration_s / speed)
    assert arrivals(trace.faster(speed)) == pytest.approx(arrivals(trace) / speed)


def test_operations_mean_the_trace_as_it_is_by_then() -> None:
    hours = counted([10] * 24, 3600.0)
    assert Trace("t", hours).faster(60).part(60, 120).from_s == 3600.0
    assert Trace("t", hours).part(60, 120).faster(60).from_s == 60.0
    twice_cut = Trace("t", hours).part(3600, 7200).part(3600, 7200)
    assert (twice_cut.from_s, twice_cut.duration_s) == (7200.0, 3600.0)


@same_each_time
@given(sources, factors, st.floats(0.01, 0.9), st.floats(0.01, 2), st.floats(0.1, 100))
def test_what_came_before_a_part_ends_where_it_begins(
    source: Source, factor: float, start: float, length: float, speed: float
) -> None:
    whole = Trace("t", source).scaled(factor).faster(speed)
    assert whole.before(1.0) is None
    part = whole.part(start * whole.duration_s)
    before = part.before(length * whole.duration_s)
    assert before is not None
    assert before.until_s == part.from_s
    assert before.duration_s == pytest.approx(min(start, length) * whole.duration_s)
    both = replace(part, from_s=before.from_s)
    assert len(arrivals(before)) + len(arrivals(part)) == len(arrivals(both))


@same_each_time
@given(times, st.floats(1, 9), seeds)
def test_doubles_follow_their_request_and_stay_before_the_next(
    moments: list[float], factor: float, seed: int
) -> None:
    at = arrivals(Trace("t", recorded(moments), seed).scaled(factor))
    first = np.unique(np.array(moments) - moments[0])
    owner = np.searchsorted(first, at, side="right") - 1
    assert np.all(at - first[owner] <= 1.0)
    number = np.bincount(owner, minlength=len(first))
    recorded_there = np.bincount(np.searchsorted(first, np.array(moments) - moments[0]))
    assert np.all(number >= recorded_there * int(factor))
    assert np.all(number <= recorded_there * (int(factor) + 1))


@same_each_time
@given(times, st.floats(0.01, 0.99), seeds)
def test_thinning_leaves_some_of_the_requests(
    moments: list[float], factor: float, seed: int
) -> None:
    at = arrivals(Trace("t", recorded(moments), seed).scaled(factor))
    assert set(at.tolist()) <= {moment - moments[0] for moment in moments}


@pytest.mark.parametrize("factor", [0.2, 1.0, 2.6, 40.0])
def test_more_load_has_that_many_more_requests_and_stays_as_bunched(factor: float) -> None:
    dice = np.random.default_rng(1)
    bunches = np.repeat(np.cumsum(dice.exponential(20, 400)), 50)
    moments = np.sort(bunches + dice.exponential(0.3, len(bunches)))
    source = recorded(moments.tolist(), CHUNK)
    at = arrivals(Trace("t", source).scaled(factor))
    # Counts grow by the factor, so their variance by its square; chance adds that of the
    # requests that are left or doubled by half.
    chance = factor % 1 * (1 - factor % 1)
    assert len(at) == pytest.approx(20_000 * factor, abs=1 + 4 * (20_000 * chance) ** 0.5)
    expected = dispersion(moments, 5.0) * factor + chance / factor
    assert dispersion(at, 5.0) == pytest.approx(expected, rel=0.1)


def test_within_an_interval_requests_come_independently() -> None:
    at = arrivals(Trace("t", counted([40_000], 3600.0)))
    gaps_s = np.diff(at)
    # Exponential gaps have a deviation equal to their mean; seconds, a dispersion of 1.
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, abs=0.02)
    assert dispersion(at, 1.0) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("source", [counted([64, 64], 16.0), Steady(4.0, 32.0)])
def test_no_interval_repeats_another(source: Source) -> None:
    at = arrivals(Trace("t", source))
    first, second = at[at < 16], at[at >= 16] - 16
    assert min(len(first), len(second)) > 40
    assert not np.isin(np.round(first, 9), np.round(second, 9)).any()


def test_a_steady_rate_is_a_poisson_process() -> None:
    at = arrivals(Trace("t", Steady(50.0, 2000.0)).scaled(0.5))
    assert len(at) == pytest.approx(50_000, rel=0.02)
    assert dispersion(at, 1.0) == pytest.approx(1, abs=0.07)
    assert dispersion(at, 20.0) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("source", [counted([10**9] * 10_000, 3600.0), Steady(1e6, 1e7)])
def test_a_trace_of_any_length_comes_in_small_pieces(source: Source) -> None:
    chunks = islice(Trace("t", source).chunks(), 20)
    assert max(map(len, chunks)) <= 3 * CHUNK


def test_many_doubles_come_in_small_pieces() -> None:
    chunks = list(Trace("t", recorded(list(range(500)), 500)).scaled(1000.0).chunks())
    assert sum(map(len, chunks)) == 500_000
    assert max(map(len, chunks)) <= 3 * CHUNK


@same_each_time
@given(sources, st.floats(0.5, 50), st.sampled_from((1.0, 10.0, 60.0)), st.floats(0.1, 50))
def test_scaling_to_a_peak_reaches_it(
    source: Source, peak_rps: float, width_s: float, speed: float
) -> None:
    trace = Trace("t", source).faster(speed)
    assert trace.scaled_to(peak_rps, width_s).peak_rps(width_s) == pytest.approx(peak_rps)


def test_the_peak_is_the_busiest_span_after_compression() -> None:
    minutes = Trace("t", counted([60, 60, 600, 60, 60, 60], 60.0))
    assert minutes.peak_rps() == pytest.approx(10)
    # Ten seconds hold five minutes of the trace now.
    assert minutes.faster(30).peak_rps() == pytest.approx(840 / 10)
    assert minutes.part(180).peak_rps() == pytest.approx(1)
    # Spans begin where the part does, but an interval longer than a span is judged as a whole.
    assert minutes.part(30).peak_rps(60) == pytest.approx(10)
    single = Trace("t", recorded([0, 8, 9, 11, 12, 40]))
    assert single.peak_rps() == pytest.approx(0.3)
    assert single.part(5).peak_rps() == pytest.approx(0.4)
    assert Trace("t", recorded([*range(9), 40])).peak_rps() == pytest.approx(0.9)


@same_each_time
@given(st.integers(2, 6), seeds)
def test_shares_add_up_to_about_the_whole(models: int, seed: int) -> None:
    trace = Trace("t", counted([3000] * 4), seed)
    shares = [arrivals(trace.share(index, models)) for index in range(models)]
    assert sum(map(len, shares)) == pytest.approx(12_000, rel=0.06)
    assert not np.array_equal(shares[0], shares[1])


def test_a_single_share_is_the_whole() -> None:
    trace = Trace("t", counted([5, 6]))
    assert trace.share(0, 1) is trace


def test_the_seed_is_what_chance_depends_on() -> None:
    source = counted([50, 50])
    assert not np.array_equal(arrivals(Trace("t", source, 1)), arrivals(Trace("t", source, 2)))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda trace: trace.faster(0), "speed must be above 0"),
        (lambda trace: trace.part(120), "lasts 120 s at this speed"),
        (lambda trace: trace.part(0, 0), "holds nothing"),
        (lambda trace: trace.scaled(0), "more than none"),
        (lambda trace: trace.scaled(1e7), "up to 1e+06 times"),
        (lambda trace: trace.part(60).scaled_to(5), "no request comes in this part"),
    ],
)
def test_what_makes_no_sense_is_refused(operation, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        operation(Trace("t", counted([6, 0])))
    assert message in str(refused.value)
