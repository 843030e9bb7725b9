"""What the nodes in use cost, by the product's own ledger, and how many there were when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from paldia.core.ledger import Ledger
from paldia.core.types import Hardware

Floats = npt.NDArray[np.float64]


class Bill:
    """Charges nodes from activation to release, between time 0 and the end of the scenario."""

    def __init__(self, nodes: Mapping[str, Hardware], duration_s: float, interval_s: float) -> None:
        self._nodes = nodes
        self._duration_s = duration_s
        self._interval_s = interval_s
        self._ledger = Ledger(0.0)
        self._running: dict[str, float] = {}
        self._since_s = 0.0
        self._kinds = {hardware.name: hardware for hardware in nodes.values()}
        self._counts = dict.fromkeys(self._kinds, 0)
        intervals = max(1, int(np.ceil(duration_s / interval_s)))
        self._node_seconds = {kind: np.zeros(intervals) for kind in self._kinds}

    def hire(self, node_id: str, now_s: float) -> None:
        """Charge a node from now on."""
        self._settle(now_s)
        hardware = self._nodes[node_id]
        self._running[node_id] = hardware.price_usd_per_hour
        self._counts[hardware.name] += 1
        self._ledger = self._ledger.settle(self._since_s, self._running)

    def release(self, node_id: str, now_s: float) -> None:
        """Charge a node no more."""
        self._settle(now_s)
        del self._running[node_id]
        self._counts[self._nodes[node_id].name] -= 1
        self._ledger = self._ledger.settle(self._since_s, self._running)

    def close(self) -> None:
        """Charge what runs until the scenario's end."""
        self._settle(self._duration_s)
        self._ledger = self._ledger.settle(self._since_s, self._running)

    def _settle(self, now_s: float) -> None:
        """Enter the nodes that ran since the last change into the rows of the timeline."""
        from_s, until_s = self._since_s, min(now_s, self._duration_s)
        if until_s <= from_s:
            return
        self._since_s = until_s
        first, last = int(from_s // self._interval_s), int(until_s // self._interval_s)
        rows = np.arange(first, min(last, self._rows - 1) + 1)
        seconds = np.minimum(until_s, (rows + 1) * self._interval_s) - np.maximum(
            from_s, rows * self._interval_s
        )
        for kind, count in self._counts.items():
            if count:
                self._node_seconds[kind][rows] += count * seconds

    @property
    def _rows(self) -> int:
        return max(1, int(np.ceil(self._duration_s / self._interval_s)))

    @property
    def cost_usd(self) -> float:
        """Dollars of all nodes so far."""
        return self._ledger.total_usd

    @property
    def node_hours(self) -> float:
        """Hours of all nodes so far."""
        return float(sum(seconds.sum() for seconds in self._node_seconds.values())) / 3600

    @property
    def idle_joules(self) -> float:
        """Energy that the nodes took for being on, where their idle power is known."""
        return sum(
            self._kinds[kind].idle_watts * float(seconds.sum())
            for kind, seconds in self._node_seconds.items()
        )

    def nodes(self) -> dict[str, Floats]:
        """Give the mean number of nodes in each interval, by kind of hardware."""
        ends_s = np.minimum(np.arange(1, self._rows + 1) * self._interval_s, self._duration_s)
        lengths_s = np.diff(ends_s, prepend=0.0)
        return {kind: seconds / lengths_s for kind, seconds in self._node_seconds.items()}

    def usd_per_hour(self) -> Floats:
        """Give the mean price of the nodes in each interval."""
        rates: Floats = np.zeros(self._rows)
        for kind, nodes in self.nodes().items():
            rates += self._kinds[kind].price_usd_per_hour * nodes
        return rates
