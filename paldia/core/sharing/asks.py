"""What models ask of hardware, one by one and as arrays.

Neighbours are one number here, the share of the device that they take on average; how many
batches that is follows from the kind of hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paldia.core.config import PolicyConfig
from paldia.core.profiles import Amount, Profile
from paldia.core.sharing.costs import Costs, Floats, costs_of, stacked
from paldia.core.sharing.prediction import Demand, Neighbours, Prediction, Way, predict
from paldia.core.sharing.queueing import Slos
from paldia.core.types import Hardware

BATCHES_PER_DEMAND = 3.0
"""Batches that run for each whole GPU's worth of demand: one takes about a third of it."""
TINY = 1e-9
"""What sums may differ by that come in different orders."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A model asking about one node of one kind of hardware.

    Attributes:
        demand: what would reach the node.
        batch_limit: the model's own limit; 0 leaves it to what was measured.
        most_lanes: most lanes whose memory fits, 1 at least.
        margin: share of its SLO that it may use up, and `limit` of the device.
        batches_per_demand: neighbours' batches for each whole device's worth of demand.
        now: (batch, lanes) that it has there already, if it is there.
        sm_percent: share of the SMs that its process is held to.
        mean: its demand over all times, where a rule wants to know.
    """

    profile: Profile
    demand: Demand
    batch_limit: int
    most_lanes: int
    margin: float
    limit: float
    batches_per_demand: float
    now: tuple[int, int] | None = None
    sm_percent: int = 100
    mean: Demand | None = None

    @property
    def largest(self) -> int:
        """The largest batch it may have."""
        measured = self.profile.largest_batch
        return min(measured, self.batch_limit or measured)

    @property
    def allowed_s(self) -> float:
        """The latency that a prediction may come to."""
        slo: float = self.demand.slo.latency_s
        return self.margin * slo


def batches_per_demand(hardware: Hardware) -> float:
    """Give how many neighbours' batches run for each whole device's worth of their demand.

    On a CPU a batch takes one core, on a GPU about a third of it.
    """
    return BATCHES_PER_DEMAND if hardware.gpus or not hardware.cores else float(hardware.cores)


class Stack:
    """Asks as arrays, one a row, with `axes` axes of length 1 behind it."""

    def __init__(self, asks: Sequence[Ask], axes: int, costs: Costs | None = None) -> None:
        """`costs` if they are known already."""

        self.asks = asks
        self.costs = costs or stacked(
            tuple([costs_of(ask.profile, ask.sm_percent) for ask in asks]), axes
        )
        rows = [
            (
                *(ask.demand.requests_per_second, ask.demand.dispersion, ask.demand.backlog),
                *(ask.demand.slo.latency_s, ask.demand.slo.share),
                *(ask.allowed_s, ask.limit, ask.batches_per_demand),
            )
            for ask in asks
        ]
        columns: Floats = np.array(rows, dtype=np.float64).T.reshape(-1, len(asks), *[1] * axes)
        rate, dispersion, backlog, slo_s, share, self.allowed_s, self.limit, self.per_demand = (
            columns
        )
        self.demand = Demand(rate, dispersion, backlog.astype(np.int64), Slos(slo_s, share))

    def foretell(
        self, batch: Amount, lanes: Amount, others: Amount, config: PolicyConfig, most_lanes: int
    ) -> tuple[Prediction, npt.NDArray[np.bool_]]:
        """Predict ways beside neighbours who take `others`, and say which of them keep up.

        To keep up is to have spare capacity; whether the device has, depends on its node.
        """
        beside = Neighbours(others, others * self.per_demand)
        way = Way(self.costs, batch, lanes)
        foretold = predict(way, self.demand, beside, config, lanes_limit=most_lanes)
        return foretold, self.demand.requests_per_second <= self.limit * foretold.capacity
