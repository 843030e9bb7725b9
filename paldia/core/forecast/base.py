"""From arrivals seen to arrivals expected.

A forecaster answers two questions: how fast requests come now and how unevenly, which says
how many may wait; and how fast they may come before hardware that is asked for now is
there, which says how much must be held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar, Protocol, Self

from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError
from paldia.core.forecast import noise


class Forecaster(Protocol):
    """What is known of a model's arrivals; a value, of which `after` gives an updated copy."""

    name: ClassVar[str]

    @property
    def requests_per_second(self) -> float:
        """The rate now."""

    @property
    def dispersion(self) -> float:
        """Variance over mean of the arrivals of one second around that rate, 1 or more."""

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> Self:
        """Give the forecaster that has also seen `arrivals` requests over `interval_s` seconds.

        Nothing is new if `interval_s` is 0.
        """

    def peak(self, horizon_s: float, quantile: float) -> float:
        """Rate in requests/s that the next `horizon_s` seconds stay below with that probability.

        Rates are means over one second, so a horizon below 1 s means 1 s. It rises with the
        quantile, and doesn't fall as the horizon grows.

        Raises:
            InvalidArgumentError: the horizon is not above 0 s, or the quantile not between 0
                and 1.
        """

    def state(self) -> tuple[float, ...]:
        """Give all of it as finite numbers, some hundred at most."""

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Self:
        """Undo `state`.

        Raises:
            InvalidArgumentError: these numbers are not a state of this forecaster.
        """


class LastSample(Protocol):
    """The part of a forecaster that its dispersion follows from."""

    @property
    def dispersion(self) -> float:
        """The index of dispersion so far."""

    @property
    def last_rate(self) -> float:
        """The newest sample in requests/s."""

    @property
    def last_interval_s(self) -> float:
        """Seconds that it was taken over; 0 before the first."""


def dispersion_after(
    last: LastSample, rate: float, interval_s: float, config: PolicyConfig
) -> float:
    """Update a forecaster's index of dispersion by the sample that follows its last one.

    Neighbouring samples are compared: a trend moves both, so it doesn't pass for bursts.
    For Poisson arrivals the squared difference of two rates is, in the mean,
    rate / interval summed over both.
    """
    if last.last_interval_s <= 0:
        return last.dispersion
    expected = rate / interval_s + last.last_rate / last.last_interval_s
    if expected <= 0:
        return last.dispersion
    sample = min((rate - last.last_rate) ** 2 / expected, config.dispersion_limit)
    weight = 1 - math.exp(-interval_s / config.dispersion_time_constant_s)
    return max(1.0, last.dispersion + weight * (sample - last.dispersion))


def not_a_state(name: str, state: Sequence[float], error: Exception) -> InvalidArgumentError:
    """Say that stored numbers don't make a forecaster."""
    return InvalidArgumentError(
        f"{len(state)} numbers are no state of the forecaster {name!r}: {error}; "
        "forget them and start anew"
    )


@dataclass(frozen=True, slots=True)
class RateEstimate:
    """`ewma`: the exponentially weighted mean rate, and a peak of what chance adds to it.

    Attributes:
        requests_per_second: the mean rate; it follows a rise faster than a fall, since too
            little hardware costs more than too much.
        dispersion: variance over mean of arrivals per interval; 1 for Poisson.
        seen_s: seconds of arrivals that the estimate rests on.
        last_rate: the newest sample, over `last_interval_s` seconds.
    """

    name: ClassVar[str] = "ewma"

    requests_per_second: float = 0.0
    dispersion: float = 1.0
    seen_s: float = 0.0
    last_rate: float = 0.0
    last_interval_s: float = 0.0

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> RateEstimate:
        """Give the estimate updated by `arrivals` requests seen over `interval_s` seconds."""
        if interval_s <= 0:
            return self
        sample = arrivals / interval_s
        seen_s = self.seen_s + interval_s
        rising = sample > self.requests_per_second
        constant_s = config.rate_rise_constant_s if rising else config.rate_fall_constant_s
        # Until a whole time constant has been seen every second counts alike: a weighted
        # mean that starts at zero would be too low for just as long.
        weight = max(1 - math.exp(-interval_s / constant_s), interval_s / seen_s)
        dispersion = dispersion_after(self, sample, interval_s, config)
        return RateEstimate(
            self.requests_per_second + weight * (sample - self.requests_per_second),
            dispersion,
            seen_s,
            sample,
            interval_s,
        )

    def peak(self, horizon_s: float, quantile: float) -> float:
        """Add to the mean rate what chance makes of it at its worst second."""
        noise.check(horizon_s, quantile)
        deviation = math.sqrt(self.requests_per_second * self.dispersion)
        return noise.highest(self.requests_per_second, deviation, max(1.0, horizon_s), quantile)

    def state(self) -> tuple[float, ...]:
        """Give the fields, in order."""
        return astuple(self)

    @classmethod
    def from_state(cls, state: Sequence[float]) -> RateEstimate:
        """Undo `state`."""
        try:
            rate, dispersion, seen_s, last_rate, last_interval_s = state
        except ValueError as error:
            raise not_a_state(cls.name, state, error) from None
        return cls(rate, dispersion, seen_s, last_rate, last_interval_s)
