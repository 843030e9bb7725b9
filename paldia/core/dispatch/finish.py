"""When a number of rows would be done, by the places that are or will be free for them."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

from paldia.core.dispatch.lanes import Lane, LaneState


class Places(NamedTuple):
    """Places of a lane for batches.

    Attributes:
        stretch: slowdown of each batch there.
        limit: rows of a full batch there.
        free_at_s: from when on each is free, ascending; one at least.
    """

    lane: Lane
    stretch: float
    limit: int
    free_at_s: Sequence[float]

    def latency_s(self, rows: int) -> float:
        """Seconds a batch takes here, neighbours included."""
        return self.lane.latency_s(rows) * self.stretch


class Joined(NamedTuple):
    """A batch that is to start now, and when it would be done."""

    lane: LaneState
    done_s: float


def mean_kind(rows: int, kinds: int) -> int:
    """Rows of a batch at most if `rows` of so many kinds wait, for a batch holds one kind.

    So predictions count as many batches as there are kinds at least.
    """
    return -(-rows // kinds)


def work_off_s(
    lanes: Sequence[LaneState],
    rows: int,
    most: int,
    now_s: float,
    joined: Joined | None = None,
) -> float:
    """When `rows` rows would be done in the places that running batches leave.

    In batches of up to `most` rows. Infinity if there are no places. A batch that `joined`
    starts now slows its neighbours, and leaves a place as well.
    """
    places, is_single, single_s = [], True, math.inf
    for state in lanes:
        free_at_s: Sequence[float]
        running = state.running
        if joined is not None and state is joined.lane:
            free_at_s = beside_s = state.places_beside_one_more_s(now_s)
            insort(beside_s, joined.done_s)
            running += 1
        else:
            free_at_s = state.places_s(now_s)
        if not free_at_s:
            continue
        lane = state.lane
        stretch = state.stretch_of(running)
        limit = min(most, lane.batch_limit)
        places.append(Places(lane, stretch, limit, free_at_s))
        if rows <= limit and lane.points:
            # Of each lane the first place will be the best for a single batch.
            single_s = min(single_s, free_at_s[0] + lane.latency_s(rows) * stretch)
        else:
            is_single = False
    return single_s if is_single else finish_s(places, rows)


def finish_s(places: Sequence[Places], rows: int) -> float:
    """When `rows` rows would be done if these places took them; infinity if there are none.

    Full batches first: each place works off whole ones until just before the places together,
    never idle, could have worked off everything. What is left goes batch by batch to the place
    that is done with it first, so the cost depends on the number of places, not of rows.
    """
    if not places:
        return math.inf
    rings = [ring for each in places for ring in _rings_of(each)]
    instant_s = [ring.free_at_s[0] for ring in rings if ring.full_s <= 0]
    if instant_s:
        return min(instant_s)
    until_s = _fluid_finish_s(rings, rows) if len(rings) > 1 else math.inf
    finished_s = -math.inf
    for ring in rings:
        batches = ring.whole_before(until_s) if len(rings) > 1 else rows // ring.limit
        if batches > 0:
            finished_s = max(finished_s, ring.take(batches))
            rows -= batches * ring.limit
    while rows > 0:
        soonest_s, chosen = math.inf, rings[0]
        for ring in rings:
            done_s = ring.next_s + (ring.full_s if rows >= ring.limit else ring.latency_s(rows))
            if done_s < soonest_s:
                soonest_s, chosen = done_s, ring
        chosen.take(1)
        finished_s = max(finished_s, soonest_s)
        rows -= chosen.limit
    return finished_s


class _Ring:
    """Places of a lane that take full batches in turn, as none is free much later than another.

    Attributes:
        full_s: seconds of a full batch.
        next_s: when the place is free whose turn it is.
    """

    __slots__ = ("_lap_s", "_places", "_turn", "free_at_s", "full_s", "limit", "next_s")

    def __init__(self, places: Places, free_at_s: Sequence[float], full_s: float) -> None:
        self._places = places
        self.free_at_s = free_at_s
        self.full_s = full_s
        self.limit = places.limit
        self.next_s = free_at_s[0]
        self._turn = 0
        self._lap_s = 0.0

    def latency_s(self, rows: int) -> float:
        """Seconds of a batch that isn't full; no other may follow it."""
        return self._places.latency_s(rows)

    def whole_before(self, time_s: float) -> int:
        """How many full batches would be done by then."""
        free_at_s, full_s = self.free_at_s, self.full_s
        laps = max(0, int((time_s - free_at_s[-1]) / full_s))
        return laps * len(free_at_s) + bisect_right(free_at_s, time_s - (laps + 1) * full_s)

    def take(self, batches: int) -> float:
        """Take the next full batches, one at least; give when the last of them is done."""
        free_at_s = self.free_at_s
        last_laps, last = divmod(self._turn + batches - 1, len(free_at_s))
        done_s = free_at_s[last] + self._lap_s + (last_laps + 1) * self.full_s
        laps, self._turn = divmod(self._turn + batches, len(free_at_s))
        self._lap_s += laps * self.full_s
        self.next_s = free_at_s[self._turn] + self._lap_s
        return done_s


def _rings_of(places: Places) -> list[_Ring]:
    """Part a lane's places so that within each part none is free a batch later than another."""
    free_at_s, full_s = places.free_at_s, places.latency_s(places.limit)
    if free_at_s[-1] - free_at_s[0] <= full_s:
        return [_Ring(places, free_at_s, full_s)]
    rings, begin = [], 0
    while begin < len(free_at_s):
        end = bisect_right(free_at_s, free_at_s[begin] + full_s, lo=begin)
        rings.append(_Ring(places, free_at_s[begin:end], full_s))
        begin = end
    return rings


def _fluid_finish_s(rings: Sequence[_Ring], rows: int) -> float:
    """When the rows would be done if every place could work at its full rate to the last moment."""
    rate, head_start = 0.0, 0.0
    for ring in rings:
        of_one = ring.limit / ring.full_s
        rate += of_one * len(ring.free_at_s)
        head_start += of_one * sum(ring.free_at_s)
    done_s = (rows + head_start) / rate
    if all(ring.free_at_s[-1] <= done_s for ring in rings):
        return done_s
    # Not all of the places are free in time to take part.
    rate, head_start = 0.0, 0.0
    for free_at_s, of_one in sorted(
        (free_at_s, ring.limit / ring.full_s) for ring in rings for free_at_s in ring.free_at_s
    ):
        if rate > 0 and (rows + head_start) / rate <= free_at_s:
            break
        rate += of_one
        head_start += of_one * free_at_s
    return (rows + head_start) / rate
