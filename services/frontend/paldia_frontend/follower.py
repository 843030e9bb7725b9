"""The stream to the controller: routes come down, demand goes up.

Demand is told every second, and at once when a request must wait for a model without lanes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from paldia.api.v1 import routing_pb2, routing_pb2_grpc
from paldia.kit.lifecycle import wait_any
from paldia.kit.rpc import keep_stream, open_channel

_REPORT_S = 1.0
_REPORT_GAP_S = 0.05
"""Least time between reports, however many requests wait for a cold model."""


class RouteFollower:
    """Holds the stream to the controller."""

    def __init__(
        self,
        controller: str,
        hurry: asyncio.Event,
        demands: Callable[[], list[routing_pb2.ModelDemand]],
        take: Callable[[routing_pb2.ConnectFrontendResponse], Awaitable[None]],
    ) -> None:
        """Tell `take` the news, and report `demands` in time, or at once on `hurry`."""
        self._controller = controller
        self._hurry = hurry
        self._demands = demands
        self._take = take

    async def follow(self, frontend: routing_pb2.FrontendInfo, stop: asyncio.Event) -> None:
        """Keep the routes up to date until `stop`, through whatever happens to the controller."""
        channel = open_channel(self._controller)
        stub: Any = routing_pb2_grpc.RoutingServiceStub(channel)
        try:
            await keep_stream(
                f"controller {self._controller}",
                lambda: stub.ConnectFrontend(self._requests(frontend)),
                self._take,
                stop,
            )
        finally:
            await channel.close()

    async def _requests(
        self, frontend: routing_pb2.FrontendInfo
    ) -> AsyncIterator[routing_pb2.ConnectFrontendRequest]:
        yield routing_pb2.ConnectFrontendRequest(frontend=frontend, demands=self._demands())
        while True:
            await asyncio.sleep(_REPORT_GAP_S)
            await wait_any([self._hurry.wait()], _REPORT_S - _REPORT_GAP_S)
            self._hurry.clear()
            yield routing_pb2.ConnectFrontendRequest(frontend=frontend, demands=self._demands())
