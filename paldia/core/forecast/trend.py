"""`holt`: a level and a trend that dies out, for loads that rise and fall by day and night."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar

from paldia.core.config import PolicyConfig
from paldia.core.forecast import noise
from paldia.core.forecast.base import dispersion_after, not_a_state

LEVEL_CONSTANT_S = 2.0
TREND_CONSTANT_S = 10.0
TREND_LASTS_S = 10.0
"""The trend shrinks by 1 - 1/e in that time: no load goes on rising as it does now."""


@dataclass(frozen=True, slots=True)
class Holt:
    """Double exponential smoothing with a damped trend, after Gardner and McKenzie (1985).

    Attributes:
        requests_per_second: the level, the trend up to now included.
        trend: its change in requests/s per second.
        dispersion: see `RateEstimate`, as are the rest.
    """

    name: ClassVar[str] = "holt"

    requests_per_second: float = 0.0
    trend: float = 0.0
    dispersion: float = 1.0
    seen_s: float = 0.0
    last_rate: float = 0.0
    last_interval_s: float = 0.0

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> Holt:
        """Give the forecaster updated by `arrivals` requests seen over `interval_s` seconds."""
        if interval_s <= 0:
            return self
        sample = arrivals / interval_s
        seen_s = self.seen_s + interval_s
        kept_trend = self.trend * math.exp(-interval_s / TREND_LASTS_S)
        expected = self.requests_per_second + self._rise(interval_s)
        weight = max(1 - math.exp(-interval_s / LEVEL_CONSTANT_S), interval_s / seen_s)
        level = max(0.0, expected + weight * (sample - expected))
        # The first sample is a level and no rise from nothing.
        rise = (level - self.requests_per_second) / interval_s if self.seen_s > 0 else 0.0
        weight = 1 - math.exp(-interval_s / TREND_CONSTANT_S)
        dispersion = dispersion_after(self, sample, interval_s, config)
        trend = kept_trend + weight * (rise - kept_trend)
        return Holt(level, trend, dispersion, seen_s, sample, interval_s)

    def peak(self, horizon_s: float, quantile: float) -> float:
        """Add what chance adds to where the trend leads, or to the rate now where it falls."""
        noise.check(horizon_s, quantile)
        seconds = max(1.0, horizon_s)
        rate = self.requests_per_second + max(0.0, self._rise(seconds))
        return noise.highest(rate, math.sqrt(rate * self.dispersion), seconds, quantile)

    def _rise(self, horizon_s: float) -> float:
        """Integrate the dying trend over `horizon_s` seconds."""
        return self.trend * TREND_LASTS_S * (1 - math.exp(-horizon_s / TREND_LASTS_S))

    def state(self) -> tuple[float, ...]:
        """Give the fields, in order."""
        return astuple(self)

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Holt:
        """Undo `state`."""
        try:
            rate, trend, dispersion, seen_s, last_rate, last_interval_s = state
        except ValueError as error:
            raise not_a_state(cls.name, state, error) from None
        return cls(rate, trend, dispersion, seen_s, last_rate, last_interval_s)
