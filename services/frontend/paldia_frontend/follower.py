"""The stream to the controller: routes come down, demand goes up.

Demand is told every second, and at once when a request must wait for a model without lanes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from paldia.api.v1 import routing_pb2, routing_pb2_grpc
from paldia.core.dispatch.types import Counters
from paldia.kit.lifecycle import wait_any
from paldia.kit.observability import logger
from paldia.kit.rpc import keep_stream, open_channel
from paldia_frontend.checks import Checks
from paldia_frontend.routes import Route, RouteTable

_REPORT_S = 1.0
_REPORT_GAP_S = 0.05
"""Least time between reports, however many requests wait for a cold model."""


class RouteFollower:
    """Holds the stream to the controller."""

    def __init__(
        self,
        controller: str,
        table: RouteTable,
        counters: Mapping[str, Counters],
        checks: Checks,
        take: Callable[[list[Route], list[str]], None],
    ) -> None:
        """Tell `take` which routes changed and which are gone, report `counters` and `checks`."""
        self._controller = controller
        self._table = table
        self._counters = counters
        self._checks = checks
        self._take = take

    async def follow(self, frontend: routing_pb2.FrontendInfo, stop: asyncio.Event) -> None:
        """Keep the routes up to date until `stop`, through whatever happens to the controller."""
        channel = open_channel(self._controller)
        stub: Any = routing_pb2_grpc.RoutingServiceStub(channel)
        try:
            await keep_stream(
                f"controller {self._controller}",
                lambda: stub.ConnectFrontend(self._requests(frontend)),
                self._handle,
                stop,
            )
        finally:
            await channel.close()

    async def _handle(self, news: routing_pb2.ConnectFrontendResponse) -> None:
        changed, gone = self._table.apply(news)
        for route in changed:
            logger().info(
                "route.changed",
                model=route.model,
                generation=route.generation,
                state=route.state.value,
                reason=route.reason,
                lanes=[f"{lane.node_id} x{lane.count}" for lane in route.plan.lanes],
            )
        if gone:
            logger().info("routes.removed", models=gone)
        self._take(changed, gone)

    async def _requests(
        self, frontend: routing_pb2.FrontendInfo
    ) -> AsyncIterator[routing_pb2.ConnectFrontendRequest]:
        yield routing_pb2.ConnectFrontendRequest(frontend=frontend, demands=self._demands())
        while True:
            await asyncio.sleep(_REPORT_GAP_S)
            await wait_any([self._table.hurry.wait()], _REPORT_S - _REPORT_GAP_S)
            self._table.hurry.clear()
            yield routing_pb2.ConnectFrontendRequest(demands=self._demands())

    def _demands(self) -> list[routing_pb2.ModelDemand]:
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
