"""From frontends' counters to how much longer batches took than was measured.

A frontend knows the batches that it sent itself. So what it says of a node counts only while no
other frontend sends any there: their batches would slow its own, or go before them in Triton.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from paldia.api.v1 import routing_pb2
from paldia.core.correction import RATIO_LIMIT

ALONE_S = 3.0
"""A frontend is alone on a node that no other has had a batch on for so long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Batches of an artifact on a node, and the mean of observed over predicted time."""

    node_id: str
    digest: str
    mean_ratio: float
    batches: int


@dataclass
class _Frontend:
    counters: dict[tuple[str, str, str], tuple[int, float]] = field(default_factory=dict)
    on_node_s: dict[str, float] = field(default_factory=dict)


class CheckMeter:
    """Takes the growth of each frontend's counters.

    Counters are cumulative; a frontend's first report only sets the mark to count from.
    """

    def __init__(self) -> None:
        self._frontends: dict[str, _Frontend] = {}

    def connect(self, frontend: str, demands: Iterable[routing_pb2.ModelDemand]) -> None:
        """Start counting from a frontend's first report."""
        self._frontends[frontend] = _Frontend()
        self._grown(frontend, demands)

    def disconnect(self, frontend: str) -> None:
        """Forget a frontend."""
        self._frontends.pop(frontend, None)

    def report(
        self, frontend: str, demands: Iterable[routing_pb2.ModelDemand], now_s: float
    ) -> list[Seen]:
        """Take in a report of a connected frontend; give what counts of it."""
        grown = self._grown(frontend, demands)
        on_node_s = self._frontends[frontend].on_node_s
        on_node_s.update((seen.node_id, now_s) for seen in grown)
        others = [it for name, it in self._frontends.items() if name != frontend]
        return [
            seen
            for seen in grown
            if not any(now_s - it.on_node_s.get(seen.node_id, -math.inf) < ALONE_S for it in others)
        ]

    def _grown(self, frontend: str, demands: Iterable[routing_pb2.ModelDemand]) -> list[Seen]:
        counters, grown = {}, []
        before = self._frontends[frontend].counters
        for demand in demands:
            for check in demand.checks:
                key = demand.model, check.node_id, check.artifact_digest
                counters[key] = check.batches, check.ratios
                batches, ratios = before.get(key, (0, 0.0))
                more = check.batches - batches
                mean = (check.ratios - ratios) / more if more > 0 else 0.0
                if 1 / RATIO_LIMIT <= mean <= RATIO_LIMIT:
                    grown.append(Seen(check.node_id, check.artifact_digest, mean, more))
        self._frontends[frontend].counters = counters
        return grown
