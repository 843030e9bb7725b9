"""From arrivals seen to arrivals expected."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paldia.core.config import PolicyConfig
from paldia.core.types import Slo


@dataclass(frozen=True, slots=True)
class RateEstimate:
    """Exponentially weighted mean rate and burstiness of a model's arrivals.

    Attributes:
        requests_per_second: the mean rate; it follows a rise faster than a fall, since too
            little hardware costs more than too much.
        dispersion: variance over mean of arrivals per interval; 1 for Poisson.
        seen_s: seconds of arrivals that the estimate rests on.
        last_rate: the newest sample, over `last_interval_s` seconds.
    """

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
        return RateEstimate(
            self.requests_per_second + weight * (sample - self.requests_per_second),
            self._dispersion_after(sample, interval_s, config),
            seen_s,
            sample,
            interval_s,
        )

    def _dispersion_after(self, rate: float, interval_s: float, config: PolicyConfig) -> float:
        """Compare neighbouring samples: a trend moves both, so it doesn't pass for bursts.

        For Poisson arrivals the squared difference of two rates is, in the mean,
        rate / interval summed over both.
        """
        if self.last_interval_s <= 0:
            return self.dispersion
        expected = rate / interval_s + self.last_rate / self.last_interval_s
        if expected <= 0:
            return self.dispersion
        sample = min((rate - self.last_rate) ** 2 / expected, config.dispersion_limit)
        weight = 1 - math.exp(-interval_s / config.dispersion_time_constant_s)
        return max(1.0, self.dispersion + weight * (sample - self.dispersion))


def pending_requests(
    requests_per_second: float, dispersion: float, capacity: float, slo: Slo, burst_z: float
) -> float:
    """Requests ahead of a new one at a bad moment, for a server of `capacity` requests/s.

    A bad moment is one worse than the SLO's share of all moments. By Kingman's
    heavy-traffic approximation with even service times the queue exceeds x with
    probability exp(-2 (capacity - rate) x / (rate IDC)), IDC being the arrivals' index of
    dispersion. It never counts more than all arrivals of one planning window (the SLO's
    latency) at once, rate W + z sqrt(rate W IDC), which is what remains of the bound as
    the rate nears the capacity.
    """
    rate = requests_per_second
    expected = rate * slo.latency_s
    window = expected + burst_z * math.sqrt(expected * dispersion)
    if capacity <= rate:
        return window
    queue = -math.log(1 - slo.share) * rate * dispersion / (2 * (capacity - rate))
    return min(window, queue)
