"""One model's queues and lanes: which batch goes next, who lets others pass, who gathers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from paldia.core.dispatch.choice import NEVER, Later, Start, choose_lane, those_that_will_do
from paldia.core.dispatch.finish import Places, finish_s, mean_kind
from paldia.core.dispatch.lanes import ROUNDING_S, LaneState
from paldia.core.dispatch.queue import Load, RequestQueue
from paldia.core.dispatch.requests import PRIORITY_LAST, Request, Stay
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


def _can_keep_slo(plan: ModelPlan) -> bool:
    """Whether requests can be in time, were they only few enough.

    Where the load alone puts the objective out of reach, refusing keeps it for the others.
    """
    alone_s = (lane.latency_s(1) for lane in plan.lanes)
    return not plan.slo_unreachable or min(alone_s, default=math.inf) <= plan.slo.latency_s


class ModelState:
    """A model as dispatch sees it.

    Attributes:
        batch_bytes: most bytes to merge into one batch.
        is_cold: whether it has no lanes.
        sheds: whether it refuses what would be late.
        load: what waits.
        room: how many more batches its lanes have places for.
        recheck_s: when to look next at what waits, if nothing happens before.
    """

    def __init__(
        self, name: str, plan: ModelPlan, counters: Counters, batch_bytes: int, load_in_all: Load
    ) -> None:
        self.name = name
        self.plan = plan
        self.batch_bytes = batch_bytes
        self.is_cold = not plan.lanes
        self.sheds = False
        self.counters = counters
        self.load = Load()
        self._load_in_all = load_in_all
        self.recheck_s = math.inf
        self.room = 0
        self._lanes: dict[str, LaneState] = {}
        # Those of the plan, in its order; the others only wait for their batches to end.
        self._planned: list[LaneState] = []
        # That of the many, who ask nothing and aren't late, is always there.
        self._most = RequestQueue()
        self._queues: dict[_Wish, RequestQueue] = {_ANYWHERE: self._most}
        self._late_passed = 0
        self._rows_by_rank = [0] * (PRIORITY_LAST + 1)
        # What `best_completion_s` has found for so many rows in such batches, and until when.
        self._foretold_s, self._foretold_rows, self._foretold_until_s = 0.0, (0, 0), -math.inf

    def change(self, plan: ModelPlan, now_s: float) -> None:
        """Take on a plan. A lane that is no longer in it stays until its batches end."""
        self.plan = plan
        self.is_cold = not plan.lanes
        self.sheds = plan.on_overload is OverloadPolicy.SHED and _can_keep_slo(plan)
        self._foretold_until_s = -math.inf
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
        self._planned = [state for state in self._lanes.values() if not state.retired]
        self.room = sum(max(0, it.lane.count - it.running) for it in self._planned)

    def waiting(self) -> list[Stay]:
        """Give all that wait."""
        return [stay for queue in self._queues.values() for stay in queue.waiting()]

    def push(self, stay: Stay) -> None:
        """Let a stay begin."""
        queue = self._most
        if stay.late or stay.avoid is not None or stay.request.node_id is not None:
            queue = self._queues.setdefault(_wish_of(stay), queue)
            if queue is self._most:
                queue = self._queues[_wish_of(stay)] = RequestQueue()
        queue.push(stay)
        self.load.add(stay.count, stay.size_bytes)
        self._load_in_all.add(stay.count, stay.size_bytes)
        self._rows_by_rank[int(stay.order[0])] += stay.rows
        self.counters.backlog += stay.rows

    def remove(self, stay: Stay) -> None:
        """Take a stay out of its queue."""
        self._queues[_wish_of(stay)].remove(stay)
        self._left([stay])

    def start_batch(self, start: Start, batch_id: int, now_s: float) -> list[Stay]:
        """Take a batch out of its queue, onto its lane."""
        state, first = start.lane, start.first
        rows_limit = state.lane.batch_limit
        if first.late:
            rows_limit = state.rows_within(LATE_SHARE * self.plan.slo.latency_s)
        batch = start.queue.take_batch(first, rows_limit, self.batch_bytes)
        rows = self._left(batch)
        state.start(batch_id, rows, now_s)
        self.room -= 1
        self.counters.batches += 1
        self.counters.in_flight += rows
        return batch

    def end_batch(self, lane: LaneState, batch_id: int, now_s: float, *, is_done: bool) -> None:
        """Free a batch's place."""
        lane.end(batch_id, now_s, teaches=is_done and self.plan.learns)
        if lane.running < lane.lane.count and not lane.retired:
            self.room += 1
        self._foretold_until_s = -math.inf
        if lane.retired and not lane.running:
            del self._lanes[lane.lane.lane_id]

    def best_completion_s(self, request: Request) -> float:
        """When one that arrives now would be done at best; infinity if nothing is at hand."""
        now_s = request.arrival_s
        rows = request.rows + sum(self._rows_by_rank[: request.rank + 1])
        kinds = sum([queue.kinds for queue in self._queues.values()])
        kinds += not self._most.has_like(request.like_key)
        most = mean_kind(request.rows + sum(self._rows_by_rank), kinds)
        if (rows, most) == self._foretold_rows and now_s < self._foretold_until_s:
            return self._foretold_s
        places, until_s = [], math.inf
        for state in self._planned:
            until_s = min(until_s, state.steady_until_s(now_s))
            if free_at_s := state.all_places_s(now_s):
                lane = state.lane
                limit = min(most, lane.batch_limit)
                places.append(Places(lane, state.stretch_of(lane.count), limit, free_at_s))
        done_s = finish_s(places, rows)
        for state in self._planned:
            if (
                rows <= min(most, state.lane.batch_limit)
                and state.has_room
                and now_s >= state.suspended_until_s
            ):
                done_s = min(done_s, state.predict_s(rows, now_s))
        self._foretold_s, self._foretold_until_s = done_s, until_s
        self._foretold_rows = rows, most
        return done_s

    def first_due_s(self, request: Request) -> float:
        """When the first is due of those with whom a request would share a batch.

        Known where all that wait, and it, are alike and fit into one; infinity otherwise.
        """
        first = self._most.first()
        if first is None or self._most.kinds > 1 or not self._most.has_like(request.like_key):
            return math.inf
        rows = request.rows + sum(self._rows_by_rank[: request.rank + 1])
        most = max((state.lane.batch_limit for state in self._planned), default=0)
        return first.order[1] if rows <= most else math.inf

    def busy_until_s(self, now_s: float) -> float:
        """Until when no arrival starts a batch or a time to wait, unless something is reported."""
        if self.is_cold:
            return now_s
        until_s = math.inf
        for state in self._planned:
            if state.suspended_until_s < until_s and state.running < state.lane.count:
                until_s = state.suspended_until_s
        return max(now_s, until_s)

    def choose(self, now_s: float) -> Start | Later:
        """Find the next batch to start: the first queue, in order, that a lane should serve now."""
        if not self.load.requests or not self.room:
            return NEVER
        choice = self._first_to_serve(now_s)
        # Each round somebody gives way for good, so there are no more rounds than requests.
        while isinstance(choice, Start) and self._some_give_way(choice, now_s):
            choice = self._first_to_serve(now_s)
        if isinstance(choice, Start):
            self._late_passed = 0 if choice.first.late else self._late_passed + 1
        return choice

    def _first_to_serve(self, now_s: float) -> Start | Later:
        later_s, free = math.inf, []
        for lane in self._planned:
            if lane.suspended_until_s > now_s:
                later_s = min(later_s, lane.suspended_until_s)
            elif lane.running < lane.lane.count:
                free.append(lane)
        if not free:
            return Later(later_s) if later_s < math.inf else NEVER
        is_gathering = False
        for queue, (need, avoid, late) in self._queues_in_order():
            if late and is_gathering:
                # They would take the lane from those who are about to start, in time.
                continue
            lanes = those_that_will_do(self._planned, need, avoid)
            here = free if lanes is self._planned else [lane for lane in free if lane in lanes]
            choice = choose_lane(queue, lanes, here, now_s)
            if self.plan.linger_s and isinstance(choice, Start):
                choice = self._gather(choice, now_s)
                is_gathering = is_gathering or isinstance(choice, Later)
            if isinstance(choice, Start):
                return choice
            later_s = min(later_s, choice.at_s)
        return Later(later_s)

    def _gather(self, choice: Start | Later, now_s: float) -> Start | Later:
        """Let a batch wait for more to join it, as planned, while it can still be in time.

        However full it gets, and whatever runs beside it. It waits no more once it is full, or
        somebody waits behind it who can't join it.
        """
        if isinstance(choice, Later) or choice.first.late:
            return choice
        state = choice.lane
        group = choice.queue.gathering(state.lane.batch_limit, self.batch_bytes)
        if group is None:
            return choice
        latest_s = group.due_s() - state.longest_s - ROUNDING_S
        until_s = min(group.since_s() + self.plan.linger_s, latest_s)
        return choice if until_s <= now_s else Later(until_s)

    def _some_give_way(self, start: Start, now_s: float) -> bool:
        """Let those at the head who would be late with this batch wait behind the others."""
        lane, queue, first = start.lane, start.queue, start.first
        if first.late or not self.plan.late_yields:
            return False
        if first.order[1] - now_s >= lane.longest_s:
            return False
        limit = lane.lane.batch_limit
        rows = max(first.request.rows, min(queue.rows_like(first), limit))
        # The other batches that wait will take the places beside it.
        waiting = max(queue.kinds - 1, -((rows - sum(self._rows_by_rank)) // limit))
        done_s = lane.predict_among_s(rows, waiting, now_s)
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
            return [(self._most, _ANYWHERE)]
        late_first = self._late_passed >= LATE_TURN
        heads = [
            ((not (late_first and first.late), *first.order), queue, wish)
            for wish, queue in self._queues.items()
            if (first := queue.first()) is not None
        ]
        heads.sort(key=lambda head: head[0])
        return [(queue, wish) for _, queue, wish in heads]

    def _left(self, stays: Sequence[Stay]) -> int:
        """Count those out who have left a queue together; give their rows."""
        if len(self._queues) > 1:
            wish = _wish_of(stays[0])
            if wish != _ANYWHERE and self._queues[wish].first() is None:
                del self._queues[wish]
        rows = count = size_bytes = 0
        for stay in stays:
            count += stay.count
            rows += stay.rows
            size_bytes += stay.size_bytes
            self._rows_by_rank[int(stay.order[0])] -= stay.rows
        self.load.add(-count, -size_bytes)
        self._load_in_all.add(-count, -size_bytes)
        self.counters.backlog -= rows
        return rows
