"""From frontends' counters to how much longer batches took than was measured.

A frontend's worker knows the batches that it sent itself. So what it says of a node counts only
while no other worker, of this frontend or another, sends any there: their batches would slow its
own, or go before them in Triton.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from paldia.api.v1 import routing_pb2
from paldia.core.correction import RATIO_LIMIT

ALONE_S = 3.0
"""A worker is alone on a node that no other has had a batch on for so long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Batches of an artifact on a node, and the mean of observed over predicted time."""

    node_id: str
    digest: str
    mean_ratio: float
    batches: int


@dataclass
class _Worker:
    """What a worker had counted when it last reported, and when it last used each node."""

    counters: dict[tuple[str, str, str], tuple[int, float]] = field(default_factory=dict)
    on_node_s: dict[str, float] = field(default_factory=dict)


class CheckMeter:
    """Takes the growth of each worker's counters.

    Counters are cumulative; a frontend's first report only sets the marks to count from.
    """

    def __init__(self) -> None:
        self._frontends: dict[str, dict[int, _Worker]] = {}

    def connect(self, frontend: str, demands: Iterable[routing_pb2.ModelDemand]) -> None:
        """Start counting from a frontend's first report."""
        self._frontends[frontend] = {}
        self._grown(frontend, demands)

    def disconnect(self, frontend: str) -> None:
        """Forget a frontend."""
        self._frontends.pop(frontend, None)

    def report(
        self, frontend: str, demands: Iterable[routing_pb2.ModelDemand], now_s: float
    ) -> list[Seen]:
        """Take in a report of a connected frontend; give what counts of it."""
        grown = self._grown(frontend, demands)
        for worker, seen in grown:
            worker.on_node_s[seen.node_id] = now_s
        everybody = [it for workers in self._frontends.values() for it in workers.values()]
        return [
            seen
            for worker, seen in grown
            if not any(
                now_s - other.on_node_s.get(seen.node_id, -math.inf) < ALONE_S
                for other in everybody
                if other is not worker
            )
        ]

    def _grown(
        self, frontend: str, demands: Iterable[routing_pb2.ModelDemand]
    ) -> list[tuple[_Worker, Seen]]:
        """Give what grew, and forget the workers that are no longer heard of."""
        before, grown = self._frontends[frontend], []
        workers: dict[int, _Worker] = {}
        for demand in demands:
            for check in demand.checks:
                known = before.get(check.worker, _Worker())
                worker = workers.setdefault(check.worker, _Worker(on_node_s=known.on_node_s))
                key = demand.model, check.node_id, check.artifact_digest
                worker.counters[key] = check.batches, check.ratios
                batches, ratios = known.counters.get(key, (0, 0.0))
                more = check.batches - batches
                mean = (check.ratios - ratios) / more if more > 0 else 0.0
                if 1 / RATIO_LIMIT <= mean <= RATIO_LIMIT:
                    seen = Seen(check.node_id, check.artifact_digest, mean, more)
                    grown.append((worker, seen))
        self._frontends[frontend] = workers
        return grown
