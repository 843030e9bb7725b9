"""From node-seconds to dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NODES_KEPT = 5000
FORMER_NODES = "(former nodes)"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What each node has cost up to one moment.

    Attributes:
        accounted_until_s: UTC seconds up to which every cost is counted.
        cost_usd: dollars by node; of many nodes that are gone, their sum.
        running: price in dollars per hour of the nodes that run since that moment.
    """

    accounted_until_s: float
    cost_usd: Mapping[str, float] = field(default_factory=dict)
    running: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_usd(self) -> float:
        """Dollars of all nodes."""
        return sum(self.cost_usd.values())

    @property
    def usd_per_hour(self) -> float:
        """Dollars per hour of the nodes that run."""
        return sum(self.running.values())

    def settle(self, now_s: float, running: Mapping[str, float]) -> Ledger:
        """Charge what ran until `now_s`, and note what runs from there.

        A clock that was set back charges nothing until it catches up.
        """
        span_s = max(0.0, now_s - self.accounted_until_s)
        cost = dict(self.cost_usd)
        # Nodes come and go for years; the bill keeps their sum, not all of their names.
        gone = sorted(cost.keys() - running.keys() - self.running.keys() - {FORMER_NODES})
        for node in gone[: max(0, len(cost) - NODES_KEPT)]:
            cost[FORMER_NODES] = cost.get(FORMER_NODES, 0.0) + cost.pop(node)
        for node, price in self.running.items():
            cost[node] = cost.get(node, 0.0) + price * span_s / 3600
        return Ledger(max(now_s, self.accounted_until_s), cost, dict(running))
