"""How many requests a batch, and how many batches at once: sharing in space and time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paldia.core.profiles import Profile


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What other models do on the device meanwhile.

    Attributes:
        demand: summed share of the device's scarcest resource they take on average.
        batches: mean number of their batches that run.
    """

    demand: float = 0.0
    batches: float = 0.0


ALONE = Neighbours()


def completion_time_s(
    profile: Profile, pending: int, batch: int, lanes: int, beside: Neighbours = ALONE
) -> float:
    """Seconds until `pending` requests are done, in batches of `batch`, `lanes` at once.

    T(N; b, k) = (rounds - 1) L(b) S(k) + L(c) S(r): ceil(N/b) batches make rounds of k, the
    last of them of r. The last round takes as long as a whole batch, c = b, unless all
    there is in it is the remainder of N/b. k = 1 is time sharing; as many lanes as batches
    is space sharing.
    """
    batches = math.ceil(pending / batch)
    rounds = math.ceil(batches / lanes)
    last_lanes = batches - (rounds - 1) * lanes
    last_batch = batch if last_lanes > 1 else pending - (batches - 1) * batch

    def slowdown(together: int) -> float:
        return profile.slowdown(together, beside.demand, beside.batches)

    time_s = (rounds - 1) * profile.latency_s(batch) * slowdown(lanes)
    return time_s + profile.latency_s(last_batch) * slowdown(last_lanes)


def throughput(profile: Profile, batch: int, lanes: int, beside: Neighbours = ALONE) -> float:
    """Requests per second with all lanes full: X(b, k) = b k / (L(b) S(k))."""
    slowdown = profile.slowdown(lanes, beside.demand, beside.batches)
    return batch * lanes / (profile.latency_s(batch) * slowdown)


def busy_share(profile: Profile, batch: int, requests_per_second: float) -> float:
    """Mean number of batches that run: rate / b * L(b)."""
    return requests_per_second / batch * profile.latency_s(batch)


def batch_sizes(limit: int) -> tuple[int, ...]:
    """Batch sizes worth trying: powers of two, and the limit itself."""
    powers = [1 << power for power in range(limit.bit_length()) if 1 << power <= limit]
    return tuple(powers) if powers[-1] == limit else (*powers, limit)
