"""Batches under way: the requests in them, and where they run."""

from __future__ import annotations

from collections.abc import Sequence

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

    def __init__(self, model: ModelState, lane: LaneState, stays: Sequence[Stay]) -> None:
        self.model = model
        self.lane = lane
        self.members = {stay.first_id: stay for stay in stays}
        self.rows = 0
        for stay in stays:
            self.rows += stay.rows

    def decision(self, batch_id: int) -> Dispatch:
        """Give the order to send it."""
        lane = self.lane.lane
        stays = list(self.members.values())
        ids, arrivals_s = stays[0].request_ids, stays[0].arrivals_s
        if len(stays) > 1:
            ids = tuple(request_id for stay in stays for request_id in stay.request_ids)
            arrivals_s = tuple(arrival_s for stay in stays for arrival_s in stay.arrivals_s)
        return Dispatch(
            batch_id, self.model.name, lane.lane_id, lane.node_id, ids, self.rows, arrivals_s
        )

    def count_answers(self, now_s: float) -> None:
        """Count all of it as answered now, in time or late."""
        counters, slo_s = self.model.counters, self.model.plan.slo.latency_s
        for stay in self.members.values():
            late = stay.count_late(now_s, slo_s)
            counters.answered_in_slo += stay.request.rows * (stay.count - late)
            counters.answered_late += stay.request.rows * late
