"""Which lane a queue's next batch goes to, and whether now or later.

Later is better if all of the queue would be done sooner: the new batch may slow its neighbours
more than it helps, and a fast lane may soon be free while a slow one is now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from paldia.core.dispatch.finish import Joined, mean_kind, work_off_s
from paldia.core.dispatch.lanes import ROUNDING_S, LaneState
from paldia.core.dispatch.queue import RequestQueue
from paldia.core.dispatch.requests import Stay


class Start(NamedTuple):
    """Form a batch from the head of this queue and start it on this lane."""

    queue: RequestQueue
    first: Stay
    lane: LaneState


class Later(NamedTuple):
    """Nothing is to start before this time, unless something happens."""

    at_s: float = math.inf


NEVER = Later()


def choose_lane(
    queue: RequestQueue, lanes: Sequence[LaneState], free: Sequence[LaneState], now_s: float
) -> Start | Later:
    """Take the free lane that would be done first, unless waiting for a busy one is better.

    Where another batch beside those that run is no gain, one on a slower node that is idle may
    still be. `free` are those of the lanes where a batch may start now.
    """
    first = queue.first()
    if first is None or not free:
        return NEVER
    soonest_s = math.inf
    for lane in lanes:
        places_s = lane.places_s(now_s)
        if places_s and places_s[0] < soonest_s:
            soonest_s = places_s[0]
    if soonest_s == math.inf and len(free) == 1:
        return Start(queue, first, free[0])
    rows_like = queue.rows_like(first)
    wanted = []
    for index, lane in enumerate(free):
        rows = max(first.request.rows, min(rows_like, lane.lane.batch_limit))
        done_s = lane.predict_s(rows, now_s)
        wanted.append((done_s, lane.running / lane.lane.count, index, rows))
    wanted.sort()
    latest_s, most = -math.inf, mean_kind(queue.rows, queue.kinds)
    for done_s, _, index, rows in wanted:
        left = queue.rows - rows
        if left <= 0 and done_s <= soonest_s:
            # No other place would even be free before.
            return Start(queue, first, free[index])
        if latest_s == -math.inf:
            latest_s = work_off_s(lanes, queue.rows, most, now_s) + ROUNDING_S
        if done_s > latest_s:
            break
        joined = Joined(free[index], done_s)
        # Whether all would be done no later if this batch started, and the others waited for it.
        if left <= 0 or work_off_s(lanes, left, most, now_s, joined) <= latest_s:
            return Start(queue, first, free[index])
    return Later(soonest_s)


def those_that_will_do(
    lanes: Sequence[LaneState], need: str | None, avoid: str | None
) -> Sequence[LaneState]:
    """Lanes that will do: what a request asks of a node counts only while it can be had."""
    if need is not None:
        return [lane for lane in lanes if lane.lane.node_id == need] or lanes
    if avoid is not None:
        return [lane for lane in lanes if lane.lane.node_id != avoid] or lanes
    return lanes
