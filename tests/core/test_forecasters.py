"""What every forecaster keeps, whatever comes; and what the best of them is for."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.forecast import noise
from paldia.core.forecast.base import Forecaster, RateEstimate
from paldia.core.forecast.blocks import BLOCK_LENGTHS_S, BLOCKS_KEPT, Blocks, Ladder
from paldia.core.forecast.choice import DEFAULT, FORECASTERS, forecaster_named
from paldia.core.forecast.past import BlockQuantile, WindowMax, forgetting_quantile
from paldia.core.forecast.surprise import Surprise
from paldia.core.forecast.trend import Holt

CONFIG = PolicyConfig()
HORIZONS_S = (0.2, 1.0, 5.0, 10.0, 30.0, 60.0, 100.0, 3600.0)
QUANTILES = (0.01, 0.5, 0.75, 0.9, 0.99, 0.999)
MEMORY_S = BLOCK_LENGTHS_S[-1] * BLOCKS_KEPT
STATE_LIMIT = 120

every_kind = pytest.mark.parametrize("kind", FORECASTERS, ids=lambda kind: kind.name)
samples = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 10**9)),
        st.one_of(st.just(1.0), st.floats(0.01, 5), st.sampled_from([0.0, 90.0, 1e5])),
    ),
    max_size=80,
)


def seen(kind: type[Forecaster], rates: list[float], interval_s: float = 1.0) -> Forecaster:
    forecaster = kind()
    for rate in rates:
        forecaster = forecaster.after(rate * interval_s, interval_s, CONFIG)
    return forecaster


def told(kind: type[Forecaster], every: list[tuple[float, float]]) -> Forecaster:
    forecaster = kind()
    for arrivals, interval_s in every:
        forecaster = forecaster.after(arrivals, interval_s, CONFIG)
    return forecaster


class TestAll:
    @every_kind
    @settings(max_examples=60, deadline=None)
    @given(every=samples)
    def test_the_answers_are_sound(
        self, kind: type[Forecaster], every: list[tuple[float, float]]
    ) -> None:
        forecaster = told(kind, every)
        assert 0 <= forecaster.requests_per_second < math.inf
        assert 1 <= forecaster.dispersion <= CONFIG.dispersion_limit
        peaks = np.array([[forecaster.peak(h, q) for q in QUANTILES] for h in HORIZONS_S])
        assert np.all(np.isfinite(peaks))
        assert np.all(peaks >= 0)
        slack = 1e-9 * (1 + peaks.max())
        assert np.all(np.diff(peaks, axis=1) >= -slack), "a higher confidence, a lower peak"
        assert np.all(np.diff(peaks, axis=0) >= -slack), "a longer time, a lower peak"
        assert np.all(peaks[0] == peaks[1]), "rates are means over one second"

    @every_kind
    @settings(max_examples=60, deadline=None)
    @given(every=samples, more=samples)
    def test_it_goes_on_from_its_state(
        self,
        kind: type[Forecaster],
        every: list[tuple[float, float]],
        more: list[tuple[float, float]],
    ) -> None:
        forecaster = told(kind, every)
        state = forecaster.state()
        assert len(state) <= STATE_LIMIT
        assert all(type(number) is float and math.isfinite(number) for number in state)
        again = kind.from_state(state)
        assert again == forecaster
        for arrivals, interval_s in more:
            forecaster = forecaster.after(arrivals, interval_s, CONFIG)
            again = again.after(arrivals, interval_s, CONFIG)
        assert again == forecaster

    @every_kind
    def test_what_is_no_state_is_refused(self, kind: type[Forecaster]) -> None:
        state = seen(kind, [3.0] * 100).state()
        for broken in ((), state[:-1], (*state, 1.0)):
            with pytest.raises(InvalidArgumentError, match="start anew"):
                kind.from_state(broken)

    @every_kind
    def test_it_is_a_value(self, kind: type[Forecaster]) -> None:
        before = seen(kind, [5.0, 7.0, 90.0])
        state = before.state()
        after = before.after(40, 1.0, CONFIG)
        assert before.state() == state != after.state()
        assert before.after(0, 0.0, CONFIG) is before

    @every_kind
    @given(rate=st.floats(0.5, 2000))
    @settings(max_examples=20, deadline=None)
    def test_a_constant_rate_is_predicted(self, kind: type[Forecaster], rate: float) -> None:
        forecaster = seen(kind, [rate] * 400)
        assert forecaster.requests_per_second == pytest.approx(rate)
        for horizon_s in (1.0, 10.0, 60.0):
            peak = forecaster.peak(horizon_s, 0.9)
            # It may allow for chance, four deviations of it, and for nothing else.
            assert rate * (1 - 1e-9) <= peak <= rate + 4 * math.sqrt(rate)

    @every_kind
    def test_a_rise_is_seen_at_once(self, kind: type[Forecaster]) -> None:
        forecaster = seen(kind, [10.0] * 300).after(200, 1.0, CONFIG)
        assert forecaster.peak(60.0, 0.99) >= 100
        if kind is not BlockQuantile:
            assert forecaster.requests_per_second >= 70

    @every_kind
    @pytest.mark.parametrize("interval_s", [0.25, 1.0, 5.0])
    def test_a_burst_is_forgotten_after_half_an_hour(
        self, kind: type[Forecaster], interval_s: float
    ) -> None:
        calm = [10.0] * round((MEMORY_S + 2 * BLOCK_LENGTHS_S[-1]) / interval_s)
        bursting = told(kind, [(500 * interval_s, interval_s)] * 40)
        for rate in calm:
            bursting = bursting.after(rate * interval_s, interval_s, CONFIG)
        for horizon_s in (1.0, 10.0, 60.0):
            assert bursting.peak(horizon_s, 0.99) == pytest.approx(
                seen(kind, calm, interval_s).peak(horizon_s, 0.99), rel=0.01
            )

    @every_kind
    def test_a_question_without_an_answer_is_refused(self, kind: type[Forecaster]) -> None:
        forecaster = seen(kind, [5.0] * 10)
        for horizon_s in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(InvalidArgumentError, match="horizon"):
                forecaster.peak(horizon_s, 0.9)
        for quantile in (0.0, 1.0, -0.1, math.nan):
            with pytest.raises(InvalidArgumentError, match="quantile"):
                forecaster.peak(60.0, quantile)

    @every_kind
    def test_how_often_it_is_asked_matters_little(self, kind: type[Forecaster]) -> None:
        rates = [20.0] * 100 + [60.0] * 100
        seconds = seen(kind, rates)
        quarters = seen(kind, [rate for rate in rates for _ in range(4)], 0.25)
        assert quarters.requests_per_second == pytest.approx(seconds.requests_per_second, rel=0.02)
        assert quarters.peak(60.0, 0.99) == pytest.approx(seconds.peak(60.0, 0.99), rel=0.05)

    @every_kind
    def test_a_quiet_pause_of_reports_counts_as_its_mean(self, kind: type[Forecaster]) -> None:
        forecaster = seen(kind, [10.0] * 100).after(6000, 600.0, CONFIG)
        assert forecaster.requests_per_second == pytest.approx(10)
        assert len(forecaster.state()) <= STATE_LIMIT


class TestChoice:
    def test_names_find_forecasters(self) -> None:
        assert [forecaster_named(kind.name) for kind in FORECASTERS] == list(FORECASTERS)
        assert len({kind.name for kind in FORECASTERS}) == len(FORECASTERS)
        assert DEFAULT in FORECASTERS

    def test_an_unknown_name_lists_those_there_are(self) -> None:
        with pytest.raises(NotFoundError, match="'arima'; there are ewma, holt, window-max"):
            forecaster_named("arima")


class TestNoise:
    @given(st.floats(1e-9, 1 - 1e-9))
    def test_the_normal_quantile_is_the_known_one(self, probability: float) -> None:
        known = NormalDist().inv_cdf(probability)
        assert noise.normal_quantile(probability) == pytest.approx(known, abs=1e-6)

    @given(st.floats(0, 1000), st.floats(0.1, 50), st.floats(1, 600), st.floats(0.5, 0.999))
    def test_the_highest_of_several_inverts_their_staying_below(
        self, rate: float, deviation: float, seconds: float, quantile: float
    ) -> None:
        value = noise.highest(rate, deviation, seconds, quantile)
        if value > 0:
            reached = noise.stays_below(value, rate, deviation, seconds)
            assert reached == pytest.approx(quantile, abs=1e-6)

    def test_the_highest_second_of_a_poisson_minute_is_as_drawn(self) -> None:
        rng = np.random.default_rng(5)
        highest = rng.poisson(200, (4000, 60)).max(axis=1)
        expected = noise.highest(200, math.sqrt(200), 60, 0.9)
        assert np.mean(highest <= expected) == pytest.approx(0.9, abs=0.03)


class TestHolt:
    def test_a_ramp_is_looked_ahead_along(self) -> None:
        ramp = [100.0 + 2 * second for second in range(120)]
        holt, ewma = seen(Holt, ramp), seen(RateEstimate, ramp)
        assert holt.requests_per_second == pytest.approx(ramp[-1], abs=2)
        assert holt.peak(10.0, 0.5) > ewma.peak(10.0, 0.5) + 5

    def test_no_ramp_lasts_for_ever(self) -> None:
        holt = seen(Holt, [100.0 + 2 * second for second in range(120)])
        assert holt.peak(3600.0, 0.5) < 500

    def test_the_first_sample_is_no_rise(self) -> None:
        expected = noise.highest(100, 10, 60, 0.5)
        assert seen(Holt, [100.0]).peak(60.0, 0.5) == pytest.approx(expected)

    def test_a_fall_promises_no_less_than_now(self) -> None:
        holt = seen(Holt, [400.0 - 2 * second for second in range(120)])
        assert holt.peak(60.0, 0.5) >= holt.requests_per_second


class TestWindowMax:
    def test_the_window_is_as_long_as_the_confidence_asks_for(self) -> None:
        rates = [10.0] * 1000
        rates[-3], rates[-20], rates[-200], rates[-900] = 20.0, 30.0, 40.0, 50.0
        window = seen(WindowMax, rates)
        # W = h q / (1 - q): 1, 9 and 99 s for one second ahead, 540 s and all for a minute.
        asked = [(1.0, 0.5), (1.0, 0.9), (1.0, 0.98), (60.0, 0.9), (60.0, 0.99)]
        assert [window.peak(*question) for question in asked] == [10, 20, 30, 40, 50]

    def test_a_minute_in_progress_is_part_of_the_window(self) -> None:
        # 645 s in all; 450 s are asked for: the last 45 s and the 7 minutes before them.
        for ago_s, highest in ((455, 20.0), (470, 10.0)):
            rates = [10.0] * 645
            rates[-ago_s] = 20.0
            assert seen(WindowMax, rates).peak(50.0, 0.9) == highest

    def test_the_rate_is_the_highest_of_ten_seconds(self) -> None:
        assert seen(WindowMax, [5.0] * 50 + [9.0] + [5.0] * 9).requests_per_second == 9
        assert seen(WindowMax, [5.0] * 50 + [9.0] + [5.0] * 10).requests_per_second == 5


class TestBlockQuantile:
    def test_older_values_count_less(self) -> None:
        assert forgetting_quantile([1, 2, 3, 4, 5], 0.5) == 3
        assert forgetting_quantile([5, 4, 3, 2, 1], 0.5) == 3
        # Ten against ten, but the newer ones weigh e times as much: 73 % of all.
        assert forgetting_quantile([90] * 10 + [10] * 10, 0.72) == 10
        assert forgetting_quantile([90] * 10 + [10] * 10, 0.74) == 90

    def test_it_counts_blocks_as_long_as_the_horizon(self) -> None:
        # Every other minute has one high second.
        minutes = ([10.0] * 60 + [10.0] * 20 + [90.0] + [10.0] * 39) * 10
        quantile = seen(BlockQuantile, minutes)
        assert [quantile.peak(60.0, q) for q in (0.3, 0.9)] == [10, 90]
        assert [quantile.peak(10.0, q) for q in (0.3, 0.7, 0.99)] == [10, 10, 90]
        assert quantile.peak(1.0, 0.99) == 10


class TestSurprise:
    def test_chance_alone_is_no_surprise(self) -> None:
        rng = np.random.default_rng(3)
        rates = rng.poisson(200, 3600)
        forecaster: Forecaster = Surprise()
        kept = {0.5: 0, 0.9: 0, 0.99: 0}
        for second, rate in enumerate(rates[:-60], start=1):
            forecaster = forecaster.after(float(rate), 1.0, CONFIG)
            highest = rates[second : second + 60].max()
            for quantile in kept:
                kept[quantile] += highest <= forecaster.peak(60.0, quantile)
        shares = {quantile: count / (len(rates) - 60) for quantile, count in kept.items()}
        assert shares == pytest.approx({0.5: 0.5, 0.9: 0.9, 0.99: 0.99}, abs=0.08)

    def test_silence_between_bursts_is_no_reason_to_forget_them(self) -> None:
        bursts = ([0.0] * 240 + [80.0] * 60) * 6 + [0.0] * 200
        surprise, ewma = seen(Surprise, bursts), seen(RateEstimate, bursts)
        assert ewma.peak(60.0, 0.99) < 1
        assert surprise.requests_per_second == 0
        assert surprise.peak(60.0, 0.99) >= 80
        # One minute in five is the start of a burst, so at even odds nothing comes.
        assert surprise.peak(60.0, 0.5) < 10

    def test_the_end_of_a_burst_is_seen_in_one_second(self) -> None:
        forecaster = seen(Surprise, [10.0, 90.0] * 60).after(0, 1.0, CONFIG)
        assert forecaster.dispersion > 10
        assert forecaster.requests_per_second == 0

    def test_the_first_request_after_silence_is_no_rush(self) -> None:
        forecaster = seen(Surprise, [0.0] * 60).after(1, 0.1, CONFIG)
        assert forecaster.requests_per_second < 1

    def test_what_it_begins_with_is_no_surprise(self) -> None:
        forecaster = seen(Surprise, [50.0] * 3 + [5.0] * 100)
        assert forecaster.peak(60.0, 0.99) < 40

    def test_beyond_a_minute_chance_has_as_many_seconds(self) -> None:
        expected = noise.highest(100, 10, 600, 0.9)
        assert seen(Surprise, [100.0] * 60).peak(600.0, 0.9) == pytest.approx(expected)

    @given(
        st.lists(st.floats(0, 8), min_size=1, max_size=BLOCKS_KEPT),
        st.integers(0, BLOCKS_KEPT),
        st.floats(10, 200),
        st.floats(0.05, 0.999),
    )
    @settings(max_examples=300)
    def test_the_peak_inverts_the_mixture(
        self, deviations: list[float], calm: int, rate: float, quantile: float
    ) -> None:
        surprises = [rate + times * math.sqrt(rate) for times in deviations]
        kept = (*surprises, *[0.0] * calm)[:BLOCKS_KEPT]
        minute = Blocks(kept, 0.0, 0.0, 1000.0)
        forecaster = Surprise(
            rate, 5.0, 1.0, rate, 1.0, Ladder(0.0, 0.0, (Blocks(),) * 2 + (minute,))
        )

        def probability(value: float) -> float:
            chance = noise.stays_below(value, rate, math.sqrt(rate), 60.0)
            surprised = sum(1 for peak in kept if peak > value)
            return chance * (1 - surprised / (len(kept) + 1))

        peak = forecaster.peak(60.0, quantile)
        if peak > forecaster.peak(1.0, quantile):
            assert probability(peak * (1 + 1e-6) + 1e-9) >= quantile - 1e-6
            assert probability(peak * (1 - 1e-6) - 1e-9) <= quantile + 1e-6

    def test_a_few_requests_fewer_are_no_silence(self) -> None:
        # Three are expected a second: one second in twenty has none.
        assert seen(Surprise, [3.0] * 60).after(0, 1.0, CONFIG).requests_per_second > 2

    def test_the_level_is_steadier_than_an_average_that_follows_as_fast(self) -> None:
        rates = np.random.default_rng(9).poisson(100, 600).astype(float).tolist()
        errors = {}
        for kind in (Surprise, RateEstimate):
            forecaster, sum_of_squares = kind(), 0.0
            for rate in rates:
                forecaster = forecaster.after(rate, 1.0, CONFIG)
                sum_of_squares += (forecaster.requests_per_second - 100) ** 2
            errors[kind] = sum_of_squares
        assert errors[Surprise] < errors[RateEstimate] / 2

    def test_how_high_it_went_counts_across_the_minutes_edge(self) -> None:
        # The burst begins a second before a minute ends and is at its height in the next.
        rates = [0.0] * 60 + [50.0] + [80.0] * 30 + [0.0] * 400
        assert seen(Surprise, rates).peak(60.0, 0.99) >= 80

    @given(st.integers(1, 25))
    @settings(max_examples=10, deadline=None)
    def test_the_more_minutes_surprised_the_likelier_is_another(self, minutes: int) -> None:
        calm = [5.0] * 60
        fewer = seen(Surprise, calm * 20 + (calm[:-10] + [200.0] * 10) * minutes + calm)
        more = seen(Surprise, calm * 20 + (calm[:-10] + [200.0] * 10) * (minutes + 1) + calm)
        assert more.peak(60.0, 0.6) >= fewer.peak(60.0, 0.6)


class TestLadder:
    def test_fractions_of_a_second_are_put_together(self) -> None:
        ladder = Ladder()
        for arrivals in (50, 0, 0, 0):
            ladder = ladder.after(arrivals, 0.25)
        assert ladder.blocks[0].kept == (50.0,)

    def test_blocks_are_as_long_as_they_say(self) -> None:
        ladder = Ladder()
        for second in range(1, 601):
            ladder = ladder.after(second, 1.0)
        assert ladder.blocks[1].kept == tuple(range(310, 601, 10))
        assert ladder.blocks[2].kept == tuple(range(60, 601, 60))

    def test_what_lies_before_the_newest_blocks_is_gone(self) -> None:
        ladder = Ladder().after(1e6, 1.0)
        for _ in range(round(MEMORY_S + BLOCK_LENGTHS_S[-1])):
            ladder = ladder.after(1.0, 1.0)
        assert all(set(blocks.kept) == {1.0} for blocks in ladder.blocks)
