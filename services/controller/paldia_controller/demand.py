"""From frontends' counters to arrivals per interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from paldia.api.v1 import routing_pb2
from paldia.core.observation import DemandView

SHORTEST_SAMPLE_S = 0.5
"""Counters read closer together than this say little about a rate."""


@dataclass
class _Counter:
    offered: int = 0
    arrivals: float = 0.0


@dataclass
class _Meter:
    """One frontend's counters, and what they grew by since the last sample."""

    since_s: float
    at_s: float
    counters: dict[str, _Counter] = field(default_factory=dict)
    backlog: dict[str, int] = field(default_factory=dict)

    @property
    def span_s(self) -> float:
        return self.at_s - self.since_s


class DemandMeter:
    """Sums what all frontends see.

    Counters are cumulative, so a report that is lost loses nothing. A frontend's first
    report only sets the mark to count from: it may have run long before this controller.
    """

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}

    def connect(
        self, frontend: str, demands: Iterable[routing_pb2.ModelDemand], now_s: float
    ) -> None:
        """Start counting from a frontend's first report."""
        meter = self._meters[frontend] = _Meter(now_s, now_s)
        for demand in demands:
            meter.counters[demand.model] = _Counter(demand.offered)
            meter.backlog[demand.model] = demand.backlog

    def report(
        self, frontend: str, demands: Iterable[routing_pb2.ModelDemand], now_s: float
    ) -> None:
        """Take in a report of a connected frontend."""
        meter = self._meters[frontend]
        for demand in demands:
            counter = meter.counters.setdefault(demand.model, _Counter())
            counter.arrivals += max(0, demand.offered - counter.offered)
            counter.offered = demand.offered
            meter.backlog[demand.model] = demand.backlog
        meter.at_s = now_s

    def disconnect(self, frontend: str) -> None:
        """Forget a frontend; its backlog is no longer known."""
        self._meters.pop(frontend, None)

    def waiting(self, model: str) -> int:
        """Requests for a model that wait in any frontend."""
        return sum(meter.backlog.get(model, 0) for meter in self._meters.values())

    def sample(self, models: Iterable[str]) -> dict[str, DemandView]:
        """Give each model's demand since the last sample.

        Arrivals are held back until every frontend has reported over a span long enough
        to mean a rate; the backlog is always current.
        """
        meters = self._meters.values()
        complete = bool(meters) and all(m.span_s >= SHORTEST_SAMPLE_S for m in meters)
        views = {
            model: _view(model, meters) if complete else DemandView(backlog=self.waiting(model))
            for model in models
        }
        if complete:
            for meter in meters:
                meter.since_s = meter.at_s
                for counter in meter.counters.values():
                    counter.arrivals = 0.0
        return views


def _view(model: str, meters: Iterable[_Meter]) -> DemandView:
    rate, spans_s, backlog = 0.0, [], 0
    for meter in meters:
        counter = meter.counters.get(model)
        rate += (counter.arrivals if counter else 0.0) / meter.span_s
        spans_s.append(meter.span_s)
        backlog += meter.backlog.get(model, 0)
    interval_s = sum(spans_s) / len(spans_s)
    return DemandView(arrivals=rate * interval_s, interval_s=interval_s, backlog=backlog)
