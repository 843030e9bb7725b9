"""How many requests wait at a bad moment, and how long until a lane is free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paldia.core.profiles import Amount
from paldia.core.types import Slo


@dataclass(frozen=True, slots=True)
class Slos:
    """The SLOs of several models, as arrays."""

    latency_s: Amount
    share: Amount


def pending_requests(
    requests_per_second: Amount,
    dispersion: Amount,
    capacity: Amount,
    slo: Slo | Slos,
    burst_z: float,
) -> Amount:
    """Requests ahead of a new one at a bad moment, for servers of `capacity` requests/s.

    A bad moment is one worse than the SLO's share of all moments. By Kingman's
    heavy-traffic approximation with even service times the queue exceeds x with
    probability exp(-2 (capacity - rate) x / (rate IDC)), IDC being the arrivals' index of
    dispersion. It never counts more than all arrivals of one planning window (the SLO's
    latency) at once, rate W + z sqrt(rate W IDC), which is what remains of the bound as
    the rate nears the capacity.
    """
    rate = requests_per_second
    expected = rate * slo.latency_s
    window = expected + burst_z * np.sqrt(expected * dispersion)
    spare = np.maximum(capacity - rate, 1e-9)
    return np.minimum(window, -np.log(1 - slo.share) * rate * dispersion / (2 * spare))


def all_busy_probability(offered: Amount, lanes: Amount, lanes_limit: int) -> Amount:
    """Give the probability that a request finds all of `lanes` lanes busy.

    `offered` is the mean number of batches that would run on endless lanes, `lanes_limit` the
    greatest of `lanes`. Erlang's loss formula, by its recursion
    B(k) = a B(k-1) / (k + a B(k-1)), turned into the delay formula
    C = B / (1 - rho (1 - B)) with rho = a / k; 1 where the lanes can't keep up.
    """
    asked = set(np.ravel(lanes).tolist())
    blocked: Amount = 1.0
    reached: Amount = 1.0
    for count in range(1, lanes_limit + 1):
        weight = offered * blocked
        blocked = weight / (count + weight)
        if count in asked:
            reached = np.where(lanes == count, blocked, reached)
    rho = np.minimum(1.0, offered / lanes)
    return np.where(rho < 1, reached / np.maximum(1e-12, 1 - rho * (1 - reached)), 1.0)
