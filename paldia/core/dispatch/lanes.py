"""Lanes: where batches may run, and when each would be done.

Batches that share a node share its speed. A batch is so many seconds of work, which it would
take alone; with `n` of them running each progresses at `1 / slowdown(n)`. So predictions
start from the lanes as they stand mid-flight. A batch that has outrun its prediction is
expected at no time: nothing waits for it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from paldia.core.dispatch.drift import Drift
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


class LaneState:
    """A lane and the batches that run on it.

    Attributes:
        running: batches that run now.
        drift: how much longer they take than foretold; all predictions reckon with it.
    """

    __slots__ = (
        *("_as_of_s", "_batches", "_clock_s", "_ends_s", "_full_s", "_most_useful"),
        *("_places_s", "_places_until_s", "_slowdowns"),
        *("drift", "lane", "retired", "running", "suspended_until_s"),
    )

    def __init__(self, lane: Lane) -> None:
        self.retired = False
        self.suspended_until_s = -math.inf
        self.running = 0
        self.drift = Drift()
        # The work that each batch has done while the lane was never empty, and on this clock
        # when each will have done its own. A look at the lane moves the clock, not the batches.
        self._clock_s = 0.0
        self._as_of_s = 0.0
        # Of each: when it started and is to end, on this clock, and its work by the profile.
        self._batches: dict[int, tuple[float, float, float]] = {}
        self._ends_s: list[float] = []
        # What `places_s` has found, and until when that holds if nothing happens.
        self._places_s: list[float] = []
        self._places_until_s = -math.inf
        # Of 0, 1, ... batches, up to one more than run.
        self._slowdowns: list[float] = []
        self._take_on(lane)

    @property
    def has_room(self) -> bool:
        """Whether a batch may start, as far as plan and running batches go."""
        return not self.retired and self.running < self.lane.count

    @property
    def longest_s(self) -> float:
        """Seconds that a full batch takes with all places taken."""
        return self._full_s * self.drift.factor

    def rows_within(self, limit_s: float) -> int:
        """Rows of a batch that takes no longer than that with all places taken; 1 at least."""
        rows, stretch = self.lane.batch_limit, self.stretch_of(self.lane.count)
        while rows > 1 and self.lane.latency_s(rows) * stretch > limit_s:
            rows //= 2
        return rows

    def stretch_of(self, running: int) -> float:
        """Times as long as by the profile that each of `running` batches takes."""
        return self.lane.slowdown_of(running) * self.drift.factor

    def start(self, batch_id: int, rows: int, now_s: float) -> None:
        """Take a batch."""
        self._advance(now_s)
        work_s = self.lane.latency_s(rows)
        end_s = self._clock_s + work_s * self.drift.factor
        self._batches[batch_id] = (self._clock_s, end_s, work_s)
        insort(self._ends_s, end_s)
        self.running += 1
        self._places_until_s = -math.inf
        if len(self._slowdowns) < self.running + 2:
            self._slowdowns.append(self.lane.slowdown_of(self.running + 1))

    def end(self, batch_id: int, now_s: float, *, teaches: bool = False) -> None:
        """Let a batch go, however it ended; it `teaches` how long one takes if it was done."""
        self._advance(now_s)
        start_s, end_s, work_s = self._batches.pop(batch_id)
        if teaches and work_s > 0:
            self.drift.learn(self._clock_s - start_s, work_s)
        del self._ends_s[bisect_left(self._ends_s, end_s)]
        self.running -= 1
        self._places_until_s = -math.inf

    def change(self, lane: Lane, now_s: float) -> None:
        """Take on a new plan for the lane; what runs goes on."""
        self._advance(now_s)
        if lane != self.lane:
            self._take_on(lane)
        self.retired = False

    def predict_s(self, rows: int, now_s: float) -> float:
        """When a batch of `rows` would be done if it started now."""
        self._advance(now_s)
        slowdowns, running = self._slowdowns, self.running + 1
        # Counted from now: on idle lanes that are alike it is to be exactly the same.
        at_s, done_s = self._as_of_s, 0.0
        work_s = self.lane.latency_s(rows) * self.drift.factor
        for end_s in self._ends_on_time():
            left_s = end_s - self._clock_s
            if left_s >= work_s:
                break
            at_s += (left_s - done_s) * slowdowns[running]
            done_s = left_s
            running -= 1
        return at_s + (work_s - done_s) * slowdowns[running]

    def predict_among_s(self, rows: int, waiting: int, now_s: float) -> float:
        """When such a batch would be done if so many that wait start beside it soon."""
        done_s = self.predict_s(rows, now_s)
        if not waiting:
            return done_s
        together = max(self.running + 1, min(self.running + 1 + waiting, self._most_useful))
        return max(done_s, now_s + self.lane.latency_s(rows) * self.stretch_of(together))

    def places_s(self, now_s: float) -> Sequence[float]:
        """When the places will be free that running batches leave, ascending.

        Where that can be foretold: a lane that takes no batches promises none.
        """
        if not self.running or self.retired or now_s < self.suspended_until_s:
            return ()
        # Time alone changes nothing, until a batch should be done.
        if now_s >= self._places_until_s:
            self._advance(now_s)
            places_s = self._foretold_s(0)
            rounding_s = ROUNDING_S * self._slowdowns[self.running]
            self._places_until_s = places_s[0] - rounding_s if places_s else math.inf
            self._places_s = self._that_stay(places_s)
        return self._places_s

    def places_beside_one_more_s(self, now_s: float) -> list[float]:
        """As `places_s`, if another batch started now and slowed those that run."""
        if self.retired or now_s < self.suspended_until_s:
            return []
        self._advance(now_s)
        return self._that_stay(self._foretold_s(1))

    def all_places_s(self, now_s: float) -> list[float]:
        """As `places_s`, and those that are free now."""
        if self.retired or now_s < self.suspended_until_s:
            return []
        places_s = self.places_s(now_s)
        return [now_s] * (self.lane.count - len(places_s)) + [*places_s]

    def steady_until_s(self, now_s: float) -> float:
        """Until when `all_places_s` are as they are now, if nothing happens."""
        if self.retired:
            return math.inf
        if now_s < self.suspended_until_s:
            return self.suspended_until_s
        # A batch that is late leaves a place at no time that is known: at best now.
        return self._places_until_s if len(self.places_s(now_s)) == self.lane.count else now_s

    def _take_on(self, lane: Lane) -> None:
        self.lane = lane
        self._full_s = lane.latency_s(lane.batch_limit) * lane.slowdown_of(lane.count)
        self._slowdowns = [lane.slowdown_of(running) for running in range(self.running + 2)]
        # So many at once get most done: no further one is started beside them.
        counts = range(1, lane.count + 1)
        self._most_useful = max(counts, key=lambda count: count / lane.slowdown_of(count))
        self._places_until_s = -math.inf

    def _advance(self, now_s: float) -> None:
        elapsed_s = now_s - self._as_of_s
        if elapsed_s > 0:
            self._as_of_s = now_s
            if self.running:
                self._clock_s += elapsed_s / self._slowdowns[self.running]
            else:
                self.drift.fade(elapsed_s)

    def _ends_on_time(self) -> list[float]:
        """When batches are done that are not late, by the clock, ascending."""
        ends_s, now_s = self._ends_s, self._clock_s + ROUNDING_S
        if not ends_s or ends_s[0] > now_s:
            return ends_s
        return ends_s[bisect_right(ends_s, now_s) :]

    def _foretold_s(self, joined: int) -> list[float]:
        """When batches will be done, as of the last look at the lane, beside `joined` more."""
        slowdowns, running = self._slowdowns, self.running + joined
        places_s, at_s, done_s = [], self._as_of_s, self._clock_s
        for end_s in self._ends_on_time():
            # Batches with equal work end together.
            if end_s > done_s:
                at_s += (end_s - done_s) * slowdowns[running]
                done_s = end_s
            running -= 1
            places_s.append(at_s)
        return places_s

    def _that_stay(self, places_s: list[float]) -> list[float]:
        """After the plan shrank a lane, the first batches to end leave no place behind."""
        gone = self.running - self.lane.count
        return places_s[gone:] if gone > 0 else places_s
