"""What came of a case, from either side, in the same terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Played:
    """What became of the requests that were compared.

    Attributes:
        latency_s: of each request, from when it was due to its answer; NaN without one.
        node_ids: where each ran; empty without an answer.
        cost_usd: of all machines over that time.
    """

    latency_s: Floats
    node_ids: Sequence[str]
    cost_usd: float

    def figures(self, slo_s: float) -> dict[str, Any]:
        """Give compliance with an SLO, quantiles of the answers, cost, and where requests ran."""
        answered = self.latency_s[~np.isnan(self.latency_s)]
        requests = len(self.latency_s)
        p50_ms, p99_ms = np.quantile(answered, (0.5, 0.99)) * 1e3 if len(answered) else (None, None)
        ran = Counter(node_id for node_id in self.node_ids if node_id)
        return {
            "requests": requests,
            "unanswered": requests - len(answered),
            "slo_compliance": float((answered <= slo_s).sum() / max(1, requests)),
            "p50_ms": p50_ms,
            "p99_ms": p99_ms,
            "cost_usd": self.cost_usd,
            "ran_on": {node_id: ran[node_id] / requests for node_id in sorted(ran)},
        }


def delta(live: Mapping[str, Any], sim: Mapping[str, Any]) -> dict[str, float | None]:
    """Give how much more the simulator says than was seen.

    Compliance in points, the rest in per cent of what was seen; None where nothing was.
    """

    def percent(key: str) -> float | None:
        return 100 * (sim[key] / live[key] - 1) if live[key] and sim[key] is not None else None

    return {
        "slo_points": 100 * (sim["slo_compliance"] - live["slo_compliance"]),
        "p50_pct": percent("p50_ms"),
        "p99_pct": percent("p99_ms"),
        "cost_pct": percent("cost_usd"),
    }
