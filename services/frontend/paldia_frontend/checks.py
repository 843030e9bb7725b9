"""How long batches take against what was measured: counted for the controller, which corrects it.

A batch that runs beside others of its model is foretold to go on at 1 / slowdown of its speed. So
each lane has a clock that runs at that speed, and what it shows between a batch's start and end is
the time that the batch took alone. That goes against the profile without corrections. A batch
beside other models' batches says nothing of its own model and isn't counted, nor is a lane's first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from paldia.api.v1 import routing_pb2
from paldia.core.correction import batch_ratio
from paldia.core.dispatch.lanes import Lane
from paldia.core.dispatch.types import Dispatch
from paldia_frontend.routes import Route, Source


@dataclass
class _Running:
    """A batch under way; `alone_s` is the time that it was measured to take alone."""

    model: str
    node_id: str
    lane: _Clock
    began_s: float
    alone_s: float
    counts: bool


@dataclass
class _Clock:
    """A lane's clock, and how many batches run on it."""

    lane: Lane
    source: Source
    warm: bool = False
    running: int = 0
    clock_s: float = 0.0
    as_of_s: float = 0.0

    def advance(self, now_s: float, started: int) -> float:
        """Run up to now, then let so many more batches run; give what the clock shows."""
        if self.running:
            self.clock_s += (now_s - self.as_of_s) / self.lane.slowdown_of(self.running)
        self.as_of_s = now_s
        self.running += started
        return self.clock_s


@dataclass
class _Sum:
    batches: int = 0
    ratios: float = 0.0


@dataclass
class Checks:
    """All batches under way, and what those that ended add up to.

    Attributes:
        note: told each ratio, with its model and node.
    """

    note: Callable[[str, str, float], None]
    _lanes: dict[str, _Clock] = field(default_factory=dict)
    _running: dict[int, _Running] = field(default_factory=dict)
    _on_node: dict[str, set[int]] = field(default_factory=dict)
    _sums: dict[str, dict[tuple[str, str], _Sum]] = field(default_factory=dict)
    _ends: dict[str, list[str]] = field(default_factory=dict)

    def take_route(self, route: Route) -> None:
        """Go by these figures for batches that start from now on."""
        for lane in route.plan.lanes:
            # Without a source nothing is counted: what isn't to be learned here isn't elsewhere.
            known = route.sources if route.plan.learns else {}
            source = known.get(lane.lane_id, Source("", 1.0))
            clock = self._lanes.get(lane.lane_id)
            if clock is None:
                self._lanes[lane.lane_id] = _Clock(lane, source)
            else:
                clock.lane, clock.source = lane, source
        ends = route.endpoints
        for gone in self._ends.get(route.model, []):
            if gone not in ends:
                self._lanes.pop(gone, None)
        self._ends[route.model] = ends

    def drop(self, model: str) -> None:
        """Forget a model's lanes and counts."""
        for gone in self._ends.pop(model, []):
            self._lanes.pop(gone, None)
        self._sums.pop(model, None)

    def started(self, batch: Dispatch, now_s: float, *, counts: bool) -> None:
        """Note that a batch starts; one whose end says nothing isn't to be counted."""
        clock = self._lanes.get(batch.lane_id)
        if clock is None:
            return
        others = self._on_node.setdefault(batch.node_id, set())
        alone_s = clock.lane.latency_s(batch.rows) / clock.source.correction
        running = _Running(
            batch.model,
            batch.node_id,
            clock,
            clock.advance(now_s, 1),
            alone_s,
            counts and clock.warm,
        )
        for other in (self._running[batch_id] for batch_id in others):
            if other.lane is not clock:
                other.counts = running.counts = False
        others.add(batch.batch_id)
        self._running[batch.batch_id] = running

    def ended(self, batch_id: int, now_s: float, *, answered: bool) -> None:
        """Note that a batch ends; harmless if it has."""
        running = self._running.pop(batch_id, None)
        if running is None:
            return
        on_node = self._on_node[running.node_id]
        on_node.discard(batch_id)
        if not on_node:
            del self._on_node[running.node_id]
        clock = running.lane
        took_s = clock.advance(now_s, -1) - running.began_s
        clock.warm |= answered
        digest = clock.source.digest
        if not (answered and running.counts and digest and took_s > 0 and running.alone_s > 0):
            return
        ratio = batch_ratio(took_s, running.alone_s)
        total = self._sums.setdefault(running.model, {}).setdefault(
            (running.node_id, digest), _Sum()
        )
        total.batches += 1
        total.ratios += ratio
        self.note(running.model, running.node_id, ratio)

    def counted(self, model: str) -> Iterable[routing_pb2.BatchCheck]:
        """Give what the batches of a model add up to, by node and artifact."""
        return [
            routing_pb2.BatchCheck(
                node_id=node_id,
                artifact_digest=digest,
                batches=total.batches,
                ratios=total.ratios,
            )
            for (node_id, digest), total in sorted(self._sums.get(model, {}).items())
        ]
