"""What all workers saw, added up: the controller hears of one frontend. Pure.

Counters run from a worker's start, and the frontend's from its own: what a worker that is gone had
counted goes on counting. What waits and what runs went with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paldia.api.v1 import routing_pb2

_COUNTERS = (
    *("offered", "answered_in_slo", "answered_late", "refused", "failed", "expired", "batches"),
)
_LEVELS = ("backlog", "in_flight")


class Tally:
    """Reports of workers, by a number of theirs that is never used again."""

    def __init__(self) -> None:
        self._reports: dict[int, Mapping[str, routing_pb2.ModelDemand]] = {}
        self._past: dict[str, routing_pb2.ModelDemand] = {}

    def report(self, worker: int, demands: Iterable[routing_pb2.ModelDemand]) -> None:
        """Take in a worker's report, in place of its last one."""
        self._reports[worker] = {demand.model: demand for demand in demands}

    def left(self, worker: int) -> None:
        """Keep what a worker that is gone had counted."""
        for model, demand in self._reports.pop(worker, {}).items():
            past = self._past.setdefault(model, routing_pb2.ModelDemand(model=model))
            _add(past, demand, _COUNTERS)

    def forget(self, models: Iterable[str]) -> None:
        """Keep nothing of models that are no longer there."""
        for model in models:
            self._past.pop(model, None)

    def demands(self) -> list[routing_pb2.ModelDemand]:
        """Give the sums, by model."""
        sums: dict[str, routing_pb2.ModelDemand] = {}
        for model, past in self._past.items():
            sums[model] = routing_pb2.ModelDemand()
            sums[model].CopyFrom(past)
        for worker, demands in sorted(self._reports.items()):
            for model, demand in demands.items():
                total = sums.setdefault(model, routing_pb2.ModelDemand(model=model))
                _add(total, demand, (*_COUNTERS, *_LEVELS))
                for check in demand.checks:
                    total.checks.add().CopyFrom(check)
                    total.checks[-1].worker = worker
        return [sums[model] for model in sorted(sums)]


def _add(
    total: routing_pb2.ModelDemand, demand: routing_pb2.ModelDemand, names: Iterable[str]
) -> None:
    for name in names:
        setattr(total, name, getattr(total, name) + getattr(demand, name))
