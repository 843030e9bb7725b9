"""One model's queues and lanes: what goes next, where, and whether now or later."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paldia.core.dispatch_lanes import LaneState, finish_s
from paldia.core.dispatch_queue import PRIORITY_LAST, RequestQueue, Stay
from paldia.core.dispatch_types import Counters, ModelPlan


@dataclass(frozen=True, slots=True)
class Start:
    """Form a batch from the head of this queue and start it on this lane."""

    queue: RequestQueue
    first: Stay
    lane: LaneState


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing is to start before this time, unless something happens."""

    at_s: float = math.inf


class ModelState:
    """A model as dispatch sees it."""

    def __init__(self, name: str, plan: ModelPlan, counters: Counters) -> None:
        self.name = name
        self.plan = plan
        self.counters = counters
        self.queued = 0
        self.queued_bytes = 0
        self.recheck_s = math.inf
        self._lanes: dict[str, LaneState] = {}
        # By what their requests ask of a node: the one they need, the one they avoid.
        self._queues: dict[tuple[str | None, str | None], RequestQueue] = {}
        self._rows_by_rank = [0] * (PRIORITY_LAST + 1)

    @property
    def is_cold(self) -> bool:
        """Whether it has no lanes."""
        return not self.plan.lanes

    def change(self, plan: ModelPlan, now_s: float) -> None:
        """Take on a plan. A lane that is no longer in it stays until its batches end."""
        self.plan = plan
        wanted = {lane.lane_id: lane for lane in plan.lanes}
        for lane_id, state in list(self._lanes.items()):
            state.retired = lane_id not in wanted
            if state.retired and not state.running:
                del self._lanes[lane_id]
        for lane_id, lane in wanted.items():
            if lane_id in self._lanes:
                self._lanes[lane_id].change(lane, now_s)
            else:
                self._lanes[lane_id] = LaneState(lane)

    def waiting(self) -> list[Stay]:
        """Give all that wait."""
        return [stay for queue in self._queues.values() for stay in queue.waiting()]

    def push(self, stay: Stay) -> None:
        """Let a request wait."""
        request = stay.request
        queue = self._queues.setdefault((request.node_id, stay.avoid), RequestQueue())
        queue.push(stay)
        self.queued += 1
        self.queued_bytes += request.size_bytes
        self._rows_by_rank[request.rank] += request.rows
        self.counters.backlog += request.rows

    def remove(self, stay: Stay) -> None:
        """Take a request out of its queue."""
        self._queues[stay.request.node_id, stay.avoid].remove(stay)
        self._left(stay)

    def take_batch(self, start: Start, bytes_limit: int) -> list[Stay]:
        """Take the batch to start out of its queue."""
        batch = start.queue.take_batch(start.first, start.lane.lane.batch_limit, bytes_limit)
        for stay in batch:
            self._left(stay)
        return batch

    def end_batch(self, lane: LaneState, batch_id: int, now_s: float) -> None:
        """Free a batch's place."""
        lane.end(batch_id, now_s)
        if lane.retired and not lane.running:
            del self._lanes[lane.lane.lane_id]

    def best_completion_s(self, rank: int, rows: int, now_s: float) -> float:
        """When `rows` that arrive now would be done at best; infinity if nothing is at hand."""
        rows += sum(self._rows_by_rank[: rank + 1])
        done_s = finish_s(
            [slot for lane in self._lanes.values() for slot in lane.all_slots(now_s)], rows
        )
        for lane in self._lanes.values():
            if rows <= lane.lane.batch_limit and lane.is_free(now_s):
                done_s = min(done_s, lane.predict_s(rows, now_s))
        return done_s

    def choose(self, now_s: float) -> Start | Later:
        """Find the next batch to start: the first queue, in order, that a lane should serve now."""
        if not self._queues:
            return Later()
        later_s = min(
            (lane.suspended_until_s for lane in self._lanes.values() if lane.is_suspended(now_s)),
            default=math.inf,
        )
        if not any(lane.is_free(now_s) for lane in self._lanes.values()):
            return Later(later_s)
        heads = [
            (first.order, need, avoid)
            for (need, avoid), queue in self._queues.items()
            if (first := queue.first()) is not None
        ]
        for _, need, avoid in sorted(heads, key=lambda head: head[0]):
            queue = self._queues[need, avoid]
            choice = _choose_lane(queue, self._lanes_for(need, avoid), now_s)
            if isinstance(choice, Start):
                return choice
            later_s = min(later_s, choice.at_s)
        return Later(later_s)

    def _lanes_for(self, need: str | None, avoid: str | None) -> list[LaneState]:
        """Lanes that will do: what a request asks of a node counts only while it can be had."""
        lanes = [lane for lane in self._lanes.values() if not lane.retired]
        if need is not None:
            return [lane for lane in lanes if lane.lane.node_id == need] or lanes
        if avoid is not None:
            return [lane for lane in lanes if lane.lane.node_id != avoid] or lanes
        return lanes

    def _left(self, stay: Stay) -> None:
        request = stay.request
        key = (request.node_id, stay.avoid)
        if key in self._queues and len(self._queues[key]) == 0:
            del self._queues[key]
        self.queued -= 1
        self.queued_bytes -= request.size_bytes
        self._rows_by_rank[request.rank] -= request.rows
        self.counters.backlog -= request.rows


def _choose_lane(queue: RequestQueue, lanes: list[LaneState], now_s: float) -> Start | Later:
    """Take the free lane that would be done first, unless waiting for a busy one is better.

    Better means that all of the queue would be done sooner: the new batch may slow its
    neighbours more than it helps, and a fast lane may soon be free while a slow one is now.
    """
    first = queue.first()
    if first is None:
        return Later()
    first_rows, rows_like = first.request.rows, queue.rows_like(first)
    free = [
        (lane.predict_s(rows, now_s), lane.running / lane.lane.count, index, rows)
        for index, lane in enumerate(lanes)
        if lane.is_free(now_s)
        for rows in (max(first_rows, min(rows_like, lane.lane.batch_limit)),)
    ]
    if not free:
        return Later()
    now_done_s, _, chosen, rows = min(free)
    start = Start(queue, first, lanes[chosen])
    busy = [slot for lane in lanes for slot in lane.busy_slots(now_s)]
    if not busy:
        return start
    if queue.rows > rows:
        slowed = [
            slot
            for index, lane in enumerate(lanes)
            for slot in lane.busy_slots(now_s, joined=int(index == chosen))
        ]
        now_done_s = max(now_done_s, finish_s(slowed, queue.rows - rows))
    if now_done_s <= finish_s(busy, queue.rows):
        return start
    return Later(min(slot.free_at_s for slot in busy))
