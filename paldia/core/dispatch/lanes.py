"""Lanes: where batches may run, and when each would be done.

Batches that share a node share its speed. A batch is so many seconds of work, which it would
take alone; with `n` of them running each progresses at `1 / slowdown(n)`. So predictions
start from the lanes as they stand mid-flight. A batch that has outrun its prediction is
expected at no time: nothing waits for it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import NamedTuple

from paldia.core.profiles import batch_latency_s

SUSPENSION_S = 0.5
"""How long a lane whose node didn't answer is left alone."""
ROUNDING_S = 1e-6
"""Less than this is no difference: a batch with so little work left should have been done."""
_LISTED_MOST = 64
"""Slowdowns of a straight line that are listed; the rest follow from these."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Instances of a model on one node.

    Attributes:
        lane_id: what the caller calls it; one node may have two while a model is updated.
        node_id: the node it is on.
        count: batches that may run at once.
        batch_limit: rows of the largest batch to form.
        points: rows and the seconds such a batch takes alone, ascending; empty if unknown.
        slowdowns: of each of 1, 2, ... batches that run at once; at least 1. Beyond the end the
            last step goes on.
    """

    lane_id: str
    node_id: str
    count: int
    batch_limit: int
    points: tuple[tuple[int, float], ...] = ()
    slowdowns: tuple[float, ...] = (1.0,)
    # What `latency_s` has found, for it is asked the same again and again.
    _known_s: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def latency_s(self, rows: int) -> float:
        """Seconds a batch takes alone, by its profile; 0 if unknown."""
        known_s = self._known_s.get(rows)
        if known_s is not None:
            return known_s
        latency_s = batch_latency_s(self.points, rows) if self.points else 0.0
        if rows <= self.batch_limit:
            self._known_s[rows] = latency_s
        return latency_s

    def slowdown_of(self, running: int) -> float:
        """Slowdown of each of `running` batches."""
        slowdowns = self.slowdowns
        known = len(slowdowns)
        if running <= known:
            return slowdowns[running - 1] if running else 1.0
        if known == 1:
            return slowdowns[0]
        return slowdowns[-1] + (slowdowns[-1] - slowdowns[-2]) * (running - known)


def linear_slowdowns(count: int, slowdown: float) -> tuple[float, ...]:
    """Slowdowns for a lane of which only that of `count` batches is known: a straight line."""
    if count <= 1:
        return (1.0,)
    listed = min(count, _LISTED_MOST)
    return tuple(1.0 + (slowdown - 1.0) * others / (count - 1) for others in range(listed))


class Slot(NamedTuple):
    """One place for batches, from the time on when it is free."""

    free_at_s: float
    lane: Lane
    stretch: float

    def latency_s(self, rows: int) -> float:
        """Seconds a batch takes here, neighbours included."""
        return self.lane.latency_s(rows) * self.stretch


class LaneState:
    """A lane and the batches that run on it."""

    __slots__ = (
        *("_as_of_s", "_clock_s", "_end_of_s", "_ends_s"),
        *("lane", "retired", "suspended_until_s"),
    )

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.retired = False
        self.suspended_until_s = -math.inf
        # The work that each batch has done while the lane was never empty, and on this clock
        # when each will have done its own. A look at the lane moves the clock, not the batches.
        self._clock_s = 0.0
        self._as_of_s = 0.0
        self._end_of_s: dict[int, float] = {}
        self._ends_s: list[float] = []

    @property
    def running(self) -> int:
        """Batches that run now."""
        return len(self._ends_s)

    @property
    def has_room(self) -> bool:
        """Whether a batch may start, as far as plan and running batches go."""
        return not self.retired and len(self._ends_s) < self.lane.count

    def is_free(self, now_s: float) -> bool:
        """Whether a batch may start."""
        return self.has_room and now_s >= self.suspended_until_s

    def longest_s(self) -> float:
        """Seconds that a full batch takes with all places taken."""
        return self.lane.latency_s(self.lane.batch_limit) * self.lane.slowdown_of(self.lane.count)

    def rows_within(self, limit_s: float) -> int:
        """Rows of a batch that takes no longer than that with all places taken; 1 at least."""
        rows, slowdown = self.lane.batch_limit, self.lane.slowdown_of(self.lane.count)
        while rows > 1 and self.lane.latency_s(rows) * slowdown > limit_s:
            rows //= 2
        return rows

    def start(self, batch_id: int, rows: int, now_s: float) -> None:
        """Take a batch."""
        self._advance(now_s)
        end_s = self._clock_s + self.lane.latency_s(rows)
        self._end_of_s[batch_id] = end_s
        insort(self._ends_s, end_s)

    def end(self, batch_id: int, now_s: float) -> None:
        """Let a batch go, however it ended."""
        self._advance(now_s)
        del self._ends_s[bisect_left(self._ends_s, self._end_of_s.pop(batch_id))]

    def predict_s(self, rows: int, now_s: float) -> float:
        """When a batch of `rows` would be done if it started now."""
        self._advance(now_s)
        lane, running = self.lane, len(self._ends_s) + 1
        at_s, done_s, work_s = self._as_of_s, 0.0, lane.latency_s(rows)
        if running == 1:
            return at_s + work_s * lane.slowdown_of(1)
        for left_s in self._works_on_time():
            if left_s >= work_s:
                break
            at_s += (left_s - done_s) * lane.slowdown_of(running)
            done_s = left_s
            running -= 1
        return at_s + (work_s - done_s) * lane.slowdown_of(running)

    def change(self, lane: Lane, now_s: float) -> None:
        """Take on a new plan for the lane; what runs goes on."""
        self._advance(now_s)
        if lane != self.lane:
            self.lane = lane
        self.retired = False

    def first_slot(self, now_s: float, joined: bool = False) -> Slot | None:
        """Give the first of `busy_slots`, for less than all of them cost."""
        ends_s, lane = self._ends_s, self.lane
        if not ends_s or not self._is_usable(now_s):
            return None
        if len(ends_s) > lane.count:
            return next(iter(self.busy_slots(now_s, joined=int(joined))), None)
        self._advance(now_s)
        stretch = lane.slowdown_of(len(ends_s) + joined)
        clock_s = self._clock_s
        for end_s in ends_s:
            if end_s - clock_s > ROUNDING_S:
                return Slot(self._as_of_s + (end_s - clock_s) * stretch, lane, stretch)
        return None

    def busy_slots(self, now_s: float, *, joined: int = 0) -> list[Slot]:
        """Places that running batches will leave, where that can be foretold; the first first.

        `joined` more batches are taken to start now and to slow them.
        """
        if not self._is_usable(now_s):
            return []
        self._advance(now_s)
        running = len(self._ends_s)
        lane, slowdown_of = self.lane, self.lane.slowdown_of
        stretch = slowdown_of(running + joined)
        # After the plan shrank a lane, the first batches to end leave no place behind.
        gone = max(0, running - lane.count)
        slots, at_s, done_s = [], self._as_of_s, 0.0
        for finished, left_s in enumerate(self._works_on_time()):
            # Batches with equal work end together.
            if left_s > done_s:
                at_s += (left_s - done_s) * slowdown_of(running + joined - finished)
                done_s = left_s
            if finished >= gone:
                slots.append(Slot(at_s, lane, stretch))
        return slots

    def all_slots(self, now_s: float) -> list[Slot]:
        """Every place, at the speed of a lane that is busy throughout; at best for late batches."""
        if not self._is_usable(now_s):
            return []
        stretch = self.lane.slowdown_of(self.lane.count)
        slots = [Slot(slot.free_at_s, self.lane, stretch) for slot in self.busy_slots(now_s)]
        return slots + [Slot(now_s, self.lane, stretch)] * (self.lane.count - len(slots))

    def _is_usable(self, now_s: float) -> bool:
        return not self.retired and now_s >= self.suspended_until_s

    def _advance(self, now_s: float) -> None:
        elapsed_s = now_s - self._as_of_s
        if elapsed_s > 0:
            self._as_of_s = now_s
            if self._ends_s:
                self._clock_s += elapsed_s / self.lane.slowdown_of(len(self._ends_s))

    def _works_on_time(self) -> list[float]:
        """Work that batches have left which are not late, ascending."""
        late = bisect_right(self._ends_s, self._clock_s + ROUNDING_S)
        return [end_s - self._clock_s for end_s in self._ends_s[late:]]
