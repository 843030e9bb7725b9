"""From frontends' counters to arrivals per interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from paldia.api.v1 import routing_pb2
from paldia.core.observation import DemandView

SHORTEST_SAMPLE_S = 0.5
"""Counters read closer together than this say little about a rate."""
SILENT_S = 5.0
"""A frontend that reports each second is stopped, or cut off, after so long."""


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
    in_flight: dict[str, int] = field(default_factory=dict)

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
            meter.in_flight[demand.model] = demand.in_flight

    def report(
        self, frontend: str, demands: Iterable[routing_pb2.ModelDemand], now_s: float
    ) -> None:
        """Take in a report of a connected frontend."""
        meter = self._meters[frontend]
        if now_s - meter.at_s > SILENT_S:
            # What came in while it was silent is not what comes in now.
            meter.since_s = now_s - SILENT_S
        for demand in demands:
            counter = meter.counters.setdefault(demand.model, _Counter())
            counter.arrivals += max(0, demand.offered - counter.offered)
            counter.offered = demand.offered
            meter.backlog[demand.model] = demand.backlog
            meter.in_flight[demand.model] = demand.in_flight
        meter.at_s = now_s

    def disconnect(self, frontend: str) -> None:
        """Forget a frontend; its backlog is no longer known."""
        self._meters.pop(frontend, None)

    def sample(self, models: Iterable[str], now_s: float) -> dict[str, DemandView]:
        """Give each model's demand since the last sample.

        Arrivals are held back until every frontend has reported over a span long enough
        to mean a rate; what waits and what runs is always current. A frontend that has
        fallen silent is left out, and holds nobody up.
        """
        meters = [meter for meter in self._meters.values() if now_s - meter.at_s <= SILENT_S]
        complete = bool(meters) and all(m.span_s >= SHORTEST_SAMPLE_S for m in meters)
        views = {model: _view(model, meters, complete=complete) for model in models}
        if complete:
            for meter in meters:
                meter.since_s = meter.at_s
                for counter in meter.counters.values():
                    counter.arrivals = 0.0
        return views


def _view(model: str, meters: Sequence[_Meter], *, complete: bool) -> DemandView:
    backlog = sum(meter.backlog.get(model, 0) for meter in meters)
    in_flight = sum(meter.in_flight.get(model, 0) for meter in meters)
    if not complete:
        return DemandView(backlog=backlog, in_flight=in_flight)
    rate = sum(
        meter.counters[model].arrivals / meter.span_s for meter in meters if model in meter.counters
    )
    interval_s = sum(meter.span_s for meter in meters) / len(meters)
    return DemandView(rate * interval_s, interval_s, backlog, in_flight)
