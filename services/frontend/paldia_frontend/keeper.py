"""What a worker makes of news of routes, and what it says of demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from paldia.api.v1 import routing_pb2
from paldia.core.dispatch.types import Counters
from paldia_frontend.checks import Checks
from paldia_frontend.routes import Route, RouteTable


class RouteKeeper:
    """Keeps the routes.

    Attributes:
        heard: set once the supervisor has sent the routes, or that it has none yet.
    """

    def __init__(
        self,
        table: RouteTable,
        counters: Mapping[str, Counters],
        checks: Checks,
        take: Callable[[list[Route], list[str]], None],
    ) -> None:
        """Tell `take` which routes changed and which are gone, report `counters` and `checks`."""
        self._table = table
        self._counters = counters
        self._checks = checks
        self._take = take
        self.heard = asyncio.Event()

    async def take(self, news: routing_pb2.ConnectFrontendResponse) -> None:
        """Take news in."""
        self.heard.set()
        if not (news.snapshot or self._table.received):
            return
        changed, gone = self._table.apply(news)
        self._take(changed, gone)

    def demands(self) -> list[routing_pb2.ModelDemand]:
        """Give what was asked of each model."""
        names = [*self._counters, *(r.model for r in self._table.routes() if r.config is None)]
        return [self._demand(name) for name in dict.fromkeys(names)]

    def _demand(self, model: str) -> routing_pb2.ModelDemand:
        counters = self._counters.get(model) or Counters()
        waiting = self._table.waiting(model)
        return routing_pb2.ModelDemand(
            model=model,
            offered=counters.offered,
            answered_in_slo=counters.answered_in_slo,
            answered_late=counters.answered_late,
            refused=counters.refused,
            failed=counters.failed,
            expired=counters.expired,
            batches=counters.batches,
            backlog=counters.backlog + waiting,
            in_flight=counters.in_flight,
            checks=self._checks.counted(model),
        )
