"""Lanes: where batches may run, and when each would be done.

Batches that share a node share its speed. A batch has work left, in seconds it would
take alone; with `n` of them running each progresses at `1 / slowdown(n)`. So predictions
start from the lanes as they stand mid-flight. A batch that has outrun its prediction is
expected at no time: nothing waits for it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from paldia.core.profiles import batch_latency_s

SUSPENSION_S = 0.5
"""How long a lane whose node didn't answer is left alone."""
_OVERDUE_S = 1e-6
"""Work so small is rounding: the batch should have been done."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Instances of a model on one node.

    Attributes:
        lane_id: what the caller calls it; one node may have two while a model is updated.
        node_id: the node it is on.
        count: batches that may run at once.
        batch_limit: rows of the largest batch to form.
        points: rows and the seconds such a batch takes alone, ascending; empty if unknown.
        slowdown: of each batch when `count` of them run; at least 1.
    """

    lane_id: str
    node_id: str
    count: int
    batch_limit: int
    points: tuple[tuple[int, float], ...] = ()
    slowdown: float = 1.0

    def latency_s(self, rows: int) -> float:
        """Seconds a batch takes alone, by its profile; 0 if unknown."""
        return batch_latency_s(self.points, rows) if self.points else 0.0

    def slowdown_of(self, running: int) -> float:
        """Slowdown of each of `running` batches: 1 alone, `slowdown` with all lanes busy."""
        if self.count <= 1 or running <= 1:
            return 1.0
        return 1.0 + (self.slowdown - 1.0) * (running - 1) / (self.count - 1)


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for batches, from the time on when it is free."""

    free_at_s: float
    lane: Lane
    stretch: float

    def latency_s(self, rows: int) -> float:
        """Seconds a batch takes here, neighbours included."""
        return self.lane.latency_s(rows) * self.stretch


class LaneState:
    """A lane and the batches that run on it."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.retired = False
        self.suspended_until_s = -math.inf
        self._work_left_s: dict[int, float] = {}
        self._as_of_s = 0.0

    @property
    def running(self) -> int:
        """Batches that run now."""
        return len(self._work_left_s)

    def is_free(self, now_s: float) -> bool:
        """Whether a batch may start."""
        return self._is_usable(now_s) and len(self._work_left_s) < self.lane.count

    def is_suspended(self, now_s: float) -> bool:
        """Whether it is left alone because its node didn't answer."""
        return now_s < self.suspended_until_s

    def start(self, batch_id: int, rows: int, now_s: float) -> None:
        """Take a batch."""
        self._advance(now_s)
        self._work_left_s[batch_id] = self.lane.latency_s(rows)

    def end(self, batch_id: int, now_s: float) -> None:
        """Let a batch go, however it ended."""
        self._advance(now_s)
        del self._work_left_s[batch_id]

    def predict_s(self, rows: int, now_s: float) -> float:
        """When a batch of `rows` would be done if it started now."""
        self._advance(now_s)
        work_s = self.lane.latency_s(rows)
        works = self._works_on_time()
        running = len(self._work_left_s) + 1
        insort(works, work_s)
        return self._ends(works, running)[works.index(work_s)]

    def change(self, lane: Lane, now_s: float) -> None:
        """Take on a new plan for the lane; what runs goes on."""
        self._advance(now_s)
        self.lane = lane
        self.retired = False

    def busy_slots(self, now_s: float, *, joined: int = 0) -> list[Slot]:
        """Places that running batches will leave, where that can be foretold.

        `joined` more batches are taken to start now and to slow them.
        """
        if not self._is_usable(now_s):
            return []
        self._advance(now_s)
        running = len(self._work_left_s)
        stretch = self.lane.slowdown_of(running + joined)
        ends = self._ends(self._works_on_time(), running + joined)
        # After the plan shrank a lane, the first batches to end leave no place behind.
        gone = max(0, running - self.lane.count)
        return [Slot(end_s, self.lane, stretch) for end_s in ends[gone:]]

    def all_slots(self, now_s: float) -> list[Slot]:
        """Every place, at the speed of a lane that is busy throughout; at best for late batches."""
        if not self._is_usable(now_s):
            return []
        busy = self.busy_slots(now_s)
        stretch = self.lane.slowdown_of(self.lane.count)
        times = [slot.free_at_s for slot in busy] + [now_s] * (self.lane.count - len(busy))
        return [Slot(free_at_s, self.lane, stretch) for free_at_s in times]

    def _is_usable(self, now_s: float) -> bool:
        return not self.retired and not self.is_suspended(now_s)

    def _advance(self, now_s: float) -> None:
        elapsed_s = now_s - self._as_of_s
        if elapsed_s <= 0:
            return
        self._as_of_s = now_s
        progress_s = elapsed_s / self.lane.slowdown_of(len(self._work_left_s))
        for batch_id, left_s in self._work_left_s.items():
            self._work_left_s[batch_id] = max(0.0, left_s - progress_s)

    def _works_on_time(self) -> list[float]:
        return sorted(left_s for left_s in self._work_left_s.values() if left_s > _OVERDUE_S)

    def _ends(self, works_s: Sequence[float], running: int) -> list[float]:
        """When each of `works_s`, ascending, is done, all running together."""
        ends, at_s, done_s = [], self._as_of_s, 0.0
        for finished, work_s in enumerate(works_s):
            at_s += (work_s - done_s) * self.lane.slowdown_of(running - finished)
            done_s = work_s
            ends.append(at_s)
        return ends


def finish_s(slots: Sequence[Slot], rows: int) -> float:
    """When `rows` rows would be done if these slots took them; infinity without slots.

    Full batches first: each slot works off whole ones until just before the slots together,
    never idle, could have worked off everything. What is left goes batch by batch to the slot
    that is done with it first, so the cost depends on the number of slots, not of rows.
    """
    if not slots:
        return math.inf
    full_s = [slot.latency_s(slot.lane.batch_limit) for slot in slots]
    for slot, latency_s in zip(slots, full_s, strict=True):
        if latency_s <= 0:
            return slot.free_at_s
    until_s = _fluid_finish_s(slots, full_s, rows)
    free_at, finished_s = [], 0.0
    for slot, latency_s in zip(slots, full_s, strict=True):
        batches = max(0, math.floor((until_s - slot.free_at_s) / latency_s))
        rows -= batches * slot.lane.batch_limit
        free_at.append(slot.free_at_s + batches * latency_s)
        if batches:
            finished_s = max(finished_s, free_at[-1])
    while rows > 0:
        done_s, chosen = min(
            (free_s + slot.latency_s(min(rows, slot.lane.batch_limit)), index)
            for index, (slot, free_s) in enumerate(zip(slots, free_at, strict=True))
        )
        free_at[chosen] = done_s
        rows -= slots[chosen].lane.batch_limit
        finished_s = max(finished_s, done_s)
    return finished_s


def _fluid_finish_s(slots: Sequence[Slot], full_s: Sequence[float], rows: int) -> float:
    """When the rows would be done if every slot could work at its full rate to the last moment."""
    rate, head_start = 0.0, 0.0
    for slot, latency_s in sorted(
        zip(slots, full_s, strict=True), key=lambda pair: pair[0].free_at_s
    ):
        if rate > 0 and (rows + head_start) / rate <= slot.free_at_s:
            break
        slot_rate = slot.lane.batch_limit / latency_s
        rate += slot_rate
        head_start += slot_rate * slot.free_at_s
    return (rows + head_start) / rate
