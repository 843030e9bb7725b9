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
        requests_per_second: the mean rate.
        dispersion: variance over mean of arrivals per interval; 1 for Poisson.
        seen_s: seconds of arrivals that the estimate rests on.
    """

    requests_per_second: float = 0.0
    dispersion: float = 1.0
    seen_s: float = 0.0

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> RateEstimate:
        """Give the estimate updated by `arrivals` requests seen over `interval_s` seconds."""
        if interval_s <= 0:
            return self
        seen_s = self.seen_s + interval_s
        # Until a whole time constant has been seen every second counts alike: a weighted
        # mean that starts at zero would be too low for just as long.
        weight = max(1 - math.exp(-interval_s / config.rate_time_constant_s), interval_s / seen_s)
        rate = self.requests_per_second + weight * (
            arrivals / interval_s - self.requests_per_second
        )
        expected = self.requests_per_second * interval_s
        dispersion = self.dispersion
        if expected > 0:
            sample = (arrivals - expected) ** 2 / expected
            dispersion += (1 - math.exp(-interval_s / config.dispersion_time_constant_s)) * (
                min(sample, config.dispersion_limit) - dispersion
            )
        return RateEstimate(rate, max(1.0, dispersion), seen_s)


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
