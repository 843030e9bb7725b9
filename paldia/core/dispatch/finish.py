"""When a number of rows would be done, by the places that are or will be free for them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from paldia.core.dispatch.lanes import LaneState, Slot


class Joined(NamedTuple):
    """A batch that is to start now, and when it would be done."""

    lane: LaneState
    done_s: float

    def slot(self) -> Slot:
        """Give the place that it leaves."""
        lane = self.lane.lane
        return Slot(self.done_s, lane, lane.slowdown_of(self.lane.running + 1))


def work_off_s(
    lanes: Sequence[LaneState], rows: int, now_s: float, joined: Joined | None = None
) -> float:
    """When `rows` rows would be done in the places that running batches leave.

    Infinity if there are none. A batch that `joined` starts now slows its neighbours, and
    leaves a place as well.
    """
    on = joined.lane if joined else None
    firsts = [slot for it in lanes if (slot := it.first_slot(now_s, it is on)) is not None]
    if joined is not None:
        firsts.append(joined.slot())
    if all(rows <= slot.lane.batch_limit and slot.lane.points for slot in firsts):
        # A single batch: of each lane the first place will be the best for it.
        return min((slot.free_at_s + slot.latency_s(rows) for slot in firsts), default=math.inf)
    slots = [slot for it in lanes for slot in it.busy_slots(now_s, joined=int(it is on))]
    if joined is not None:
        slots.append(joined.slot())
    return finish_s(slots, rows)


def finish_s(slots: Sequence[Slot], rows: int) -> float:
    """When `rows` rows would be done if these slots took them; infinity without slots.

    Full batches first: each slot works off whole ones until just before the slots together,
    never idle, could have worked off everything. What is left goes batch by batch to the slot
    that is done with it first, so the cost depends on the number of slots, not of rows.
    """
    if not slots:
        return math.inf
    # Of each slot: when it is free, seconds of a full batch, rows of one.
    works = []
    for free_at_s, lane, stretch in slots:
        full_s = lane.latency_s(lane.batch_limit) * stretch
        if full_s <= 0:
            return free_at_s
        works.append((free_at_s, full_s, lane.batch_limit))
    until_s = _fluid_finish_s(works, rows)
    free_at, finished_s = [], 0.0
    for free_at_s, full_s, limit in works:
        batches = max(0, int((until_s - free_at_s) / full_s))
        free_at.append(free_at_s + batches * full_s)
        if batches:
            rows -= batches * limit
            finished_s = max(finished_s, free_at[-1])
    # As long as batches are full everywhere, when the next is done changes for one slot only.
    most = max(slot.lane.batch_limit for slot in slots)
    if rows >= most:
        heap = [(at_s + works[index][1], index) for index, at_s in enumerate(free_at)]
        heapq.heapify(heap)
        while rows >= most:
            finished_s, index = heap[0]
            _, full_s, limit = works[index]
            free_at[index] = finished_s
            heapq.heapreplace(heap, (finished_s + full_s, index))
            rows -= limit
    while rows > 0:
        done_s, index = _soonest(slots, free_at, rows)
        free_at[index] = done_s
        finished_s = max(finished_s, done_s)
        rows -= works[index][2]
    return finished_s


def _soonest(slots: Sequence[Slot], free_at_s: Sequence[float], rows: int) -> tuple[float, int]:
    """When a batch of what is left of `rows` would be done first, and in which slot."""
    soonest_s, chosen, latency_s = math.inf, 0, 0.0
    lane_before, stretch_before = None, 0.0
    for index, (_, lane, stretch) in enumerate(slots):
        if lane is not lane_before or stretch != stretch_before:
            latency_s = lane.latency_s(min(rows, lane.batch_limit)) * stretch
            lane_before, stretch_before = lane, stretch
        if free_at_s[index] + latency_s < soonest_s:
            soonest_s, chosen = free_at_s[index] + latency_s, index
    return soonest_s, chosen


def _fluid_finish_s(works: Sequence[tuple[float, float, int]], rows: int) -> float:
    """When the rows would be done if every slot could work at its full rate to the last moment."""
    rate, head_start = 0.0, 0.0
    for free_at_s, full_s, limit in sorted(works):
        if rate > 0 and (rows + head_start) / rate <= free_at_s:
            break
        rate += limit / full_s
        head_start += limit / full_s * free_at_s
    return (rows + head_start) / rate
