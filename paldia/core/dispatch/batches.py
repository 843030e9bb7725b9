"""Batches under way: the requests in them, and where they run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from paldia.core.dispatch.lanes import LaneState
from paldia.core.dispatch.model import ModelState
from paldia.core.dispatch.requests import Stay
from paldia.core.dispatch.types import Dispatch


class Batch:
    """A batch that runs.

    Attributes:
        members: by the first id of each.
        rows: of all of them.
    """

    __slots__ = ("lane", "members", "model", "rows")

    def __init__(
        self, batch_id: int, model: ModelState, lane: LaneState, stays: Sequence[Stay]
    ) -> None:
        self.model = model
        self.lane = lane
        self.members: dict[int, Stay] = {}
        self.rows = 0
        for stay in stays:
            stay.batch_id = batch_id
            self.members[stay.first_id] = stay
            self.rows += stay.rows

    def decision(self, batch_id: int) -> Dispatch:
        """Give the order to send it."""
        lane = self.lane.lane
        stays = list(self.members.values())
        ids, arrivals_s = stays[0].request_ids, stays[0].arrivals_s
        if len(stays) > 1:
            ids = tuple(chain.from_iterable([stay.request_ids for stay in stays]))
            arrivals_s = tuple(chain.from_iterable([stay.arrivals_s for stay in stays]))
        return Dispatch(
            batch_id, self.model.name, lane.lane_id, lane.node_id, ids, self.rows, arrivals_s
        )

    def count_answers(self, now_s: float) -> None:
        """Count all of it as answered now, in time or late."""
        counters, slo_s = self.model.counters, self.model.plan.slo.latency_s
        late_rows = 0
        for stay in self.members.values():
            if now_s - stay.arrivals_s[0] > slo_s:
                late_rows += stay.request.rows * stay.count_late(now_s, slo_s)
        counters.answered_in_slo += self.rows - late_rows
        counters.answered_late += late_rows
