"""The agents' and frontends' streams: reports up, desired state and routes down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from paldia.api.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
)
from paldia.core.errors import InvalidArgumentError, PaldiaError
from paldia.kit.lifecycle import wait_any
from paldia.kit.observability import logger
from paldia.kit.rpc import Context
from paldia_controller.artifacts import Artifacts
from paldia_controller.observer import Observer
from paldia_controller.state import State
from paldia_controller.views import Views

REFRESH_S = 1.0
"""Longest time between looks at what a stream should say: silence changes things too."""


class Streams:
    """What both services share: the facts, and when they change."""

    def __init__(self, state: State, observer: Observer, views: Views, stop: asyncio.Event) -> None:
        self.observer = observer
        self.views = views
        self.stop = stop
        self._state = state

    def seen(self) -> tuple[int, int]:
        """Mark the present, to be read before looking at the facts."""
        return self._state.changed.count, self.observer.changed.count

    def goes_on(self, reader: asyncio.Task[None]) -> bool:
        """Whether a stream whose requests `reader` reads should be held on."""
        return not self.stop.is_set() and not reader.done()

    async def changed(self, seen: tuple[int, int], reader: asyncio.Task[None]) -> None:
        """Wait until the facts may have changed, the peer hung up or the service stops."""
        hung_up = asyncio.wait({reader})
        await wait_any(
            [
                self._state.changed.beyond(seen[0]),
                self.observer.changed.beyond(seen[1]),
                self.stop.wait(),
                hung_up,
            ],
            REFRESH_S,
        )


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """Serves node agents."""

    def __init__(self, streams: Streams, artifacts: Artifacts) -> None:
        self._streams = streams
        self._artifacts = artifacts

    async def ConnectAgent(  # noqa: N802 - named by the protocol
        self, requests: AsyncIterator[agent_pb2.ConnectAgentRequest], context: Context
    ) -> AsyncIterator[agent_pb2.ConnectAgentResponse]:
        """Hold an agent's stream: its whole desired state first, and after each change."""
        hello = await anext(aiter(requests), None)
        if hello is None or not hello.HasField("node"):
            raise InvalidArgumentError("the first request must introduce the node")
        observer = self._streams.observer
        session = observer.agent_connected(hello.node)
        name = hello.node.node_id
        logger().info("agent.connected", node=name)
        if hello.HasField("report"):
            observer.agent_reported(session, hello.report)

        async def read() -> None:
            async for request in requests:
                if request.HasField("node"):
                    observer.agent_changed(session, request.node)
                observer.agent_reported(session, request.report)

        reader = asyncio.create_task(read())
        told: agent_pb2.ConnectAgentResponse | None = None
        try:
            while self._streams.goes_on(reader) and observer.agents.get(name) is session:
                seen = self._streams.seen()
                # Until the first message an agent leaves everything as it is.
                desired = self._streams.views.desired(name) if observer.settled() else told
                if desired is not None and desired != told:
                    told = desired
                    yield desired
                await self._streams.changed(seen, reader)
            if reader.done() and isinstance(error := reader.exception(), PaldiaError):
                raise error
        finally:
            reader.cancel()
            observer.agent_disconnected(session)
            logger().info("agent.disconnected", node=name)

    async def FetchArtifact(  # noqa: N802 - named by the protocol
        self, request: agent_pb2.FetchArtifactRequest, context: Context
    ) -> AsyncIterator[agent_pb2.FetchArtifactResponse]:
        """Send a packed model folder."""
        async for chunk in self._artifacts.send(request.digest):
            yield agent_pb2.FetchArtifactResponse(chunk=chunk)


class RoutingService(routing_pb2_grpc.RoutingServiceServicer):
    """Serves frontends."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def ConnectFrontend(  # noqa: N802 - named by the protocol
        self, requests: AsyncIterator[routing_pb2.ConnectFrontendRequest], context: Context
    ) -> AsyncIterator[routing_pb2.ConnectFrontendResponse]:
        """Hold a frontend's stream: all routes first, then those that change."""
        hello = await anext(aiter(requests), None)
        if hello is None or not hello.HasField("frontend"):
            raise InvalidArgumentError("the first request must introduce the frontend")
        observer = self._streams.observer
        session = observer.frontend_connected(hello.frontend, hello)
        logger().info("frontend.connected", frontend=hello.frontend.id)

        async def read() -> None:
            async for request in requests:
                observer.frontend_reported(session, request)

        reader = asyncio.create_task(read())
        told: dict[str, routing_pb2.ModelRoute] | None = None
        try:
            while self._streams.goes_on(reader):
                seen = self._streams.seen()
                # A frontend that serves from its last routes must not be told that nobody
                # serves, only because the nodes haven't reported yet.
                if observer.settled():
                    routes = self._streams.views.routes()
                    news = _difference(told, routes)
                    if news is not None:
                        told = routes
                        yield news
                await self._streams.changed(seen, reader)
        finally:
            reader.cancel()
            observer.frontend_disconnected(session)
            logger().info("frontend.disconnected", frontend=hello.frontend.id)


def _difference(
    told: dict[str, routing_pb2.ModelRoute] | None, routes: dict[str, routing_pb2.ModelRoute]
) -> routing_pb2.ConnectFrontendResponse | None:
    """Give what a frontend must learn, None if nothing."""
    if told is None:
        return routing_pb2.ConnectFrontendResponse(snapshot=True, routes=routes.values())
    changed = [route for name, route in routes.items() if told.get(name) != route]
    removed = sorted(told.keys() - routes.keys())
    if not changed and not removed:
        return None
    return routing_pb2.ConnectFrontendResponse(routes=changed, removed=removed)
