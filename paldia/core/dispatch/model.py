"""One model's queues and lanes: what goes next, where, and whether now or later."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from paldia.core.dispatch.finish import Joined, finish_s, work_off_s
from paldia.core.dispatch.lanes import ROUNDING_S, LaneState
from paldia.core.dispatch.queue import RequestQueue
from paldia.core.dispatch.requests import PRIORITY_LAST, Stay
from paldia.core.dispatch.types import Counters, ModelPlan
from paldia.core.types import OverloadPolicy

_Wish: TypeAlias = tuple[str | None, str | None, bool]
"""The node that is needed, the one to avoid, and whether it is for those who are late."""
_ANYWHERE: _Wish = (None, None, False)
LATE_TURN = 8
"""While some are late and wait, every so many batches one is theirs: nobody waits for ever."""
LATE_SHARE = 1 / 3
"""Share of the SLO that a batch of late requests may take: others may come meanwhile."""


def _wish_of(stay: Stay) -> _Wish:
    return (stay.request.node_id, stay.avoid, stay.late)


class Start(NamedTuple):
    """Form a batch from the head of this queue and start it on this lane."""

    queue: RequestQueue
    first: Stay
    lane: LaneState


class Later(NamedTuple):
    """Nothing is to start before this time, unless something happens."""

    at_s: float = math.inf


NEVER = Later()


class ModelState:
    """A model as dispatch sees it.

    Attributes:
        is_cold: whether it has no lanes.
        sheds: whether it refuses what would be late.
        recheck_s: when to look next at what waits, if nothing happens before.
    """

    def __init__(self, name: str, plan: ModelPlan, counters: Counters) -> None:
        self.name = name
        self.plan = plan
        self.is_cold = not plan.lanes
        self.sheds = False
        self.counters = counters
        self.queued = 0
        self.queued_bytes = 0
        self.recheck_s = math.inf
        self._lanes: dict[str, LaneState] = {}
        # That of the many, who ask nothing and aren't late, is always there.
        self._queues: dict[_Wish, RequestQueue] = {_ANYWHERE: RequestQueue()}
        self._late_passed = 0
        self._rows_by_rank = [0] * (PRIORITY_LAST + 1)

    def change(self, plan: ModelPlan, now_s: float) -> None:
        """Take on a plan. A lane that is no longer in it stays until its batches end."""
        self.plan = plan
        self.is_cold = not plan.lanes
        self.sheds = plan.on_overload is OverloadPolicy.SHED and not plan.slo_unreachable
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
        """Let a stay begin."""
        wish = _wish_of(stay)
        queue = self._queues.get(wish)
        if queue is None:
            queue = self._queues[wish] = RequestQueue()
        queue.push(stay)
        self.queued += stay.count
        self.queued_bytes += stay.size_bytes
        self._rows_by_rank[int(stay.order[0])] += stay.rows
        self.counters.backlog += stay.rows

    def remove(self, stay: Stay) -> None:
        """Take a stay out of its queue."""
        self._queues[_wish_of(stay)].remove(stay)
        self._left(stay)

    def take_batch(self, start: Start, bytes_limit: int) -> list[Stay]:
        """Take the batch to start out of its queue."""
        lane = start.lane
        rows_limit = lane.lane.batch_limit
        if start.first.late:
            rows_limit = lane.rows_within(LATE_SHARE * self.plan.slo.latency_s)
        batch = start.queue.take_batch(start.first, rows_limit, bytes_limit)
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

    def first_due_s(self, rank: int, rows: int) -> float:
        """When the first is due of those with whom `rows` more would share a batch.

        Known where all that wait, and they, fit into one batch; infinity otherwise.
        """
        waiting = sum(self._rows_by_rank[: rank + 1])
        first = self._queues[_ANYWHERE].first()
        most = max((lane.lane.batch_limit for lane in self._lanes.values()), default=0)
        return first.order[1] if first is not None and waiting + rows <= most else math.inf

    def busy_until_s(self, now_s: float) -> float:
        """Until when no arrival starts a batch or a time to wait, unless something is reported."""
        until_s = -math.inf if self.is_cold else math.inf
        for lane in self._lanes.values():
            if lane.has_room and lane.suspended_until_s < until_s:
                until_s = lane.suspended_until_s
        return max(now_s, until_s)

    def choose(self, now_s: float) -> Start | Later:
        """Find the next batch to start: the first queue, in order, that a lane should serve now."""
        choice = self._first_to_serve(now_s)
        # Each round somebody gives way for good, so there are no more rounds than requests.
        while isinstance(choice, Start) and self._some_give_way(choice, now_s):
            choice = self._first_to_serve(now_s)
        if isinstance(choice, Start):
            self._late_passed = 0 if choice.first.late else self._late_passed + 1
        return choice

    def _first_to_serve(self, now_s: float) -> Start | Later:
        if not self.queued:
            return NEVER
        later_s, any_free = math.inf, False
        for lane in self._lanes.values():
            if lane.suspended_until_s > now_s:
                later_s = min(later_s, lane.suspended_until_s)
            elif lane.has_room:
                any_free = True
        if not any_free:
            return Later(later_s) if later_s < math.inf else NEVER
        lanes = [lane for lane in self._lanes.values() if not lane.retired]
        for queue, (need, avoid, _) in self._queues_in_order():
            choice = _choose_lane(queue, _that_will_do(lanes, need, avoid), now_s)
            if isinstance(choice, Start):
                return choice
            later_s = min(later_s, choice.at_s)
        return Later(later_s)

    def _some_give_way(self, start: Start, now_s: float) -> bool:
        """Let those at the head who would be late with this batch wait behind the others."""
        lane, queue, first = start.lane, start.queue, start.first
        if first.late or not self.plan.late_yields:
            return False
        if first.order[1] - now_s >= lane.longest_s():
            return False
        rows = max(first.request.rows, min(queue.rows_like(first), lane.lane.batch_limit))
        done_s = lane.predict_s(rows, now_s)
        found = False
        stay: Stay | None = first
        while stay is not None and (count := stay.count_due_before(done_s)):
            self.remove(stay)
            if count < stay.count:
                head = stay.cut(count)
                self.push(stay)
                stay = head
            stay.give_way()
            self.push(stay)
            found = True
            stay = queue.first()
        return found

    def _queues_in_order(self) -> list[tuple[RequestQueue, _Wish]]:
        """The queues in which something waits, by what waits there first."""
        if len(self._queues) == 1:
            return [(queue, wish) for wish, queue in self._queues.items()]
        late_first = self._late_passed >= LATE_TURN
        heads = [
            ((not (late_first and first.late), *first.order), queue, wish)
            for wish, queue in self._queues.items()
            if (first := queue.first()) is not None
        ]
        heads.sort(key=lambda head: head[0])
        return [(queue, wish) for _, queue, wish in heads]

    def _left(self, stay: Stay) -> None:
        if len(self._queues) > 1:
            wish = _wish_of(stay)
            if wish != _ANYWHERE and wish in self._queues and not len(self._queues[wish]):
                del self._queues[wish]
        self.queued -= stay.count
        self.queued_bytes -= stay.size_bytes
        self._rows_by_rank[int(stay.order[0])] -= stay.rows
        self.counters.backlog -= stay.rows


def _that_will_do(lanes: list[LaneState], need: str | None, avoid: str | None) -> list[LaneState]:
    """Lanes that will do: what a request asks of a node counts only while it can be had."""
    if need is not None:
        return [lane for lane in lanes if lane.lane.node_id == need] or lanes
    if avoid is not None:
        return [lane for lane in lanes if lane.lane.node_id != avoid] or lanes
    return lanes


def _choose_lane(queue: RequestQueue, lanes: list[LaneState], now_s: float) -> Start | Later:
    """Take the free lane that would be done first, unless waiting for a busy one is better.

    Better means that all of the queue would be done sooner: the new batch may slow its
    neighbours more than it helps, and a fast lane may soon be free while a slow one is now.
    """
    first = queue.first()
    free = [lane for lane in lanes if lane.is_free(now_s)]
    if first is None or not free:
        return NEVER
    free_at_s = [slot[0] for lane in lanes if (slot := lane.first_slot(now_s)) is not None]
    if not free_at_s and len(free) == 1:
        return Start(queue, first, free[0])
    rows_like = queue.rows_like(first)
    chosen, rows, best = free[0], 0, (math.inf, math.inf)
    for lane in free:
        rows_here = max(first.request.rows, min(rows_like, lane.lane.batch_limit))
        done = (lane.predict_s(rows_here, now_s), lane.running / lane.lane.count)
        if done < best:
            chosen, rows, best = lane, rows_here, done
    start = Start(queue, first, chosen)
    if not free_at_s:
        return start
    soonest_s, left = min(free_at_s), queue.rows - rows
    if left <= 0 and best[0] <= soonest_s:
        # Done before any other place would even be free.
        return start
    latest_s = work_off_s(lanes, queue.rows, now_s) + ROUNDING_S
    if best[0] <= latest_s and (
        left <= 0 or work_off_s(lanes, left, now_s, joined=Joined(chosen, best[0])) <= latest_s
    ):
        return start
    return Later(soonest_s)
