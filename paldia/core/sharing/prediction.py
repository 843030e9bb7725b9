"""How many requests a batch, and how many batches at once: sharing in space and time.

The formulas hold for numbers and for arrays alike: a grid of batch sizes (a row) and lane
counts (a column) is judged in one go.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from paldia.core.config import PolicyConfig
from paldia.core.profiles import Amount, Profile, slowdown
from paldia.core.sharing.costs import Costs, costs_of
from paldia.core.sharing.queueing import Slos, all_busy_probability, pending_requests
from paldia.core.types import Slo

_ROUNDS = 3
"""Iterations towards the batch size that a load settles at; the third changes little."""


class SharingRule(enum.Enum):
    """How a device is shared; all but the first are there to be compared with."""

    LANES = "lanes"
    """The best of all batch sizes and lane counts."""
    TIME = "time"
    """One batch after the other."""
    SPACE = "space"
    """Everything at once, as if nothing slowed anything."""
    DYNAMIC = "dynamic"
    """One instance that takes what waits, up to the largest batch."""
    PAPER = "paper"
    """Queue as many batches as is best, run the rest together."""
    FIXED = "fixed"
    """The best for the trace's mean rate, once and for all."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What other models do on the device meanwhile.

    Attributes:
        demand: summed share of the device's scarcest resource they take on average.
        batches: mean number of their batches that run.
    """

    demand: Amount = 0.0
    batches: Amount = 0.0


ALONE = Neighbours()


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of one model on one node.

    Attributes:
        requests_per_second: what reaches the node; `backlog`, requests that wait, likewise.
        dispersion: index of dispersion of the arrivals.
    """

    requests_per_second: Amount
    dispersion: Amount
    backlog: Amount
    slo: Slo | Slos


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of a way to share; arrays where the way was given as arrays.

    Attributes:
        latency_s: until the last of the requests pending at a bad moment is done.
        pending: how many those are.
        capacity: requests per second with all lanes full.
        batches: mean number of batches that run.
        utilisation: mean share of the device they take.
    """

    latency_s: Amount
    pending: Amount
    capacity: Amount
    batches: Amount
    utilisation: Amount


@dataclass(frozen=True, slots=True)
class Way:
    """A way to share: batches of up to `batch` requests, `lanes` at once.

    `sm_percent` is the share of the SMs that the model's process is held to. Batch sizes
    beyond the largest that was measured count as that one. In place of the profile may stand
    the stacked costs of several, for arrays of ways to be judged together; batch sizes
    within what was measured are then the caller's business.

    Attributes:
        full_s: seconds that a full batch takes alone.
        full_demand: share of the device that it takes.
    """

    profile: Profile | Costs
    batch: Amount
    lanes: Amount
    sm_percent: int = 100
    costs: Costs = field(init=False, repr=False, compare=False)
    full_s: Amount = field(init=False, repr=False, compare=False)
    full_demand: Amount = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = self.profile
        costs = known if isinstance(known, Costs) else costs_of(known, self.sm_percent)
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "full_s", self.latency_s(self.batch))
        object.__setattr__(self, "full_demand", self.demand_fraction(self.batch))

    def latency_s(self, rows: Amount) -> Amount:
        """Seconds that a batch of `rows` takes alone."""
        return self.costs.latency_s.take(self.costs.start + rows, mode="clip")

    def demand_fraction(self, rows: Amount) -> Amount:
        """Share of the device that a batch of `rows` takes."""
        return self.costs.demand.take(self.costs.start + rows, mode="clip")

    def slowdown(self, together: Amount, beside: Neighbours, rows: Amount = None) -> Amount:
        """Slowdown of each of `together` batches of `rows` requests; of full ones if not said."""
        return slowdown(
            self.costs.penalty,
            self.costs.curve,
            together,
            self.full_demand if rows is None else self.demand_fraction(rows),
            other_demand=beside.demand,
            others=beside.batches,
        )


def completion_time_s(
    way: Way,
    pending: Amount,
    beside: Neighbours = ALONE,
    running: Amount = 1,
    full_slowdown: Amount = None,
) -> Amount:
    """Seconds until `pending` requests are done, in batches that start together.

    T(N; b, k) = (rounds - 1) L(b) S(k) + L(c) S(r): ceil(N/b) batches make rounds of k, the
    last of them of r. The last round takes as long as a whole batch, c = b, unless all
    there is in it is the remainder of N/b. k = 1 is time sharing; as many lanes as batches
    is space sharing. `running` is the least number of batches that the last round runs among:
    under load others start before it ends. `full_slowdown` is S(k), if it is known already.
    """
    if full_slowdown is None:
        full_slowdown = way.slowdown(way.lanes, beside)
    batches = -(-pending // way.batch)
    full_rounds = -(-batches // way.lanes) - 1
    last_lanes = batches - full_rounds * way.lanes
    last_batch = np.where(last_lanes > 1, way.batch, pending - (batches - 1) * way.batch)
    time_s = full_rounds * way.full_s * full_slowdown
    together = np.maximum(last_lanes, running)
    return time_s + way.latency_s(last_batch) * way.slowdown(together, beside, last_batch)


def throughput(way: Way, beside: Neighbours = ALONE, full_slowdown: Amount = None) -> Amount:
    """Requests per second with all lanes full: X(b, k) = b k / (L(b) S(k)).

    `full_slowdown` is S(k), if it is known already.
    """
    if full_slowdown is None:
        full_slowdown = way.slowdown(way.lanes, beside)
    return way.batch * way.lanes / (way.full_s * full_slowdown)


def predict(
    way: Way, demand: Demand, beside: Neighbours, config: PolicyConfig, *, lanes_limit: int
) -> Prediction:
    """Foretell how a way to share serves a demand.

    A request that finds all lanes busy waits until one is free, L S / k at the batch size
    that the load settles at; then all that are pending are worked off, among as many batches
    as run at a bad moment. `lanes_limit` is the greatest of the lane counts asked about.
    """
    rate = demand.requests_per_second
    full_slowdown = way.slowdown(way.lanes, beside)
    capacity = throughput(way, beside, full_slowdown)
    # A single request, by itself, is where it begins.
    rows, mean = 1, 1.0
    for _ in range(_ROUNDS):
        cycle_s = way.latency_s(rows) * way.slowdown(mean, beside, rows)
        settled = np.minimum(np.maximum(rate * cycle_s / way.lanes, 1.0), way.batch)
        offered = rate / settled * cycle_s
        rows = np.ceil(settled).astype(np.int64)
        mean = np.minimum(np.maximum(offered, 1.0), way.lanes)
    running = np.minimum(way.lanes, offered + config.burst_z * np.sqrt(offered))
    cycle_s = way.latency_s(rows) * way.slowdown(np.maximum(1.0, running), beside, rows)
    busy = all_busy_probability(offered, way.lanes, lanes_limit)
    must_wait = busy > 1 - demand.slo.share
    queued = np.ceil(
        pending_requests(rate, demand.dispersion, capacity, demand.slo, config.burst_z)
    )
    ahead = np.maximum(demand.backlog, queued).astype(np.int64)
    pending = ahead + np.where(must_wait, rows, 1)
    wait_s = np.where(must_wait, cycle_s / way.lanes, 0.0)
    batches = rate / way.batch * way.full_s
    return Prediction(
        latency_s=wait_s + completion_time_s(way, pending, beside, running, full_slowdown),
        pending=pending,
        capacity=capacity,
        batches=batches,
        utilisation=batches * way.full_demand,
    )


@lru_cache(maxsize=1 << 14)
def queued_batches(batches: int, demand_fraction: float, penalty: float) -> int:
    """Give the number of batches to queue by the source paper's idea, as reconstructed.

    Of `batches` whole batches `y` are run one by one and the rest together: the least
    y + S(batches - y), in units of one batch's time, with S(0) = 0; the smaller `y` of equals.
    """

    def time(queued: int) -> float:
        together = batches - queued
        crowd = 1 + penalty * (together - 1)
        return queued + (max(1.0, together * demand_fraction) * crowd if together else 0.0)

    return min(range(batches + 1), key=lambda queued: (round(time(queued), 9), queued))


def batch_sizes(limit: int) -> tuple[int, ...]:
    """Batch sizes worth trying: powers of two, and the limit itself."""
    powers = [1 << power for power in range(limit.bit_length()) if 1 << power <= limit]
    return tuple(powers) if powers[-1] == limit else (*powers, limit)


def useful_lanes(profile: Profile, batch: int, limit: int) -> int:
    """Lanes that fill the device with such batches; more only get in each other's way."""
    return min(limit, math.ceil(1 / profile.demand_fraction(batch)))
