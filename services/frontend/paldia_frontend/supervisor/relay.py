"""Between controller and workers: routes go down to each, with homes; reports come up as one.

Workers speak the controller's own protocol to it, so they need not know that it isn't one. Routes
are kept, so a worker that starts while the controller is gone serves all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress

import grpc

from paldia.api.v1 import routing_pb2, routing_pb2_grpc
from paldia.core.errors import InvalidArgumentError
from paldia.kit.clock import Clock
from paldia.kit.lifecycle import wait_any
from paldia.kit.observability import logger
from paldia.kit.rpc import Context
from paldia_frontend.supervisor.homes import settle
from paldia_frontend.supervisor.tally import Tally

_LOOK_S = 1.0


class _Session:
    """A worker that is connected.

    Attributes:
        worker: a number that no other worker of this frontend ever has.
        serves: whether it has its port.
        greeted: whether it was told that there are no routes yet.
        unsaid: models whose routes it must still hear of; None if it has heard of none.
    """

    def __init__(self, worker: int, now_s: float) -> None:
        self.worker = worker
        self.heard_s = now_s
        self.serves = False
        self.greeted = False
        self.unsaid: set[str] | None = None
        self.news = asyncio.Event()


class Relay(routing_pb2_grpc.RoutingServiceServicer):
    """Serves the workers.

    Attributes:
        hurry: set when a worker has a request for a model that isn't loaded.
        changed: set when a worker came or went.
    """

    def __init__(self, clock: Clock, stop: asyncio.Event) -> None:
        """End all streams at `stop`."""
        self.hurry = asyncio.Event()
        self.changed = asyncio.Event()
        self._clock = clock
        self._stop = stop
        self._received = False
        self._routes: dict[str, routing_pb2.ModelRoute] = {}
        self._homes: dict[str, int] = {}
        self._sessions: dict[int, _Session] = {}
        self._leaving: set[int] = set()
        self._tally = Tally()

    def demands(self) -> list[routing_pb2.ModelDemand]:
        """Give what all workers saw."""
        return self._tally.demands()

    async def take(self, news: routing_pb2.ConnectFrontendResponse) -> None:
        """Pass on what the controller says."""
        gone = set(news.removed)
        changed = {route.model: route for route in news.routes}
        if news.snapshot:
            gone = self._routes.keys() - changed.keys()
        for model in gone:
            self._routes.pop(model, None)
        if gone:
            logger().info("routes.removed", models=sorted(gone))
        for route in changed.values():
            logger().info(
                "route.changed",
                model=route.model,
                generation=route.generation,
                state=routing_pb2.RouteState.Name(route.state).removeprefix("ROUTE_STATE_").lower(),
                reason=route.reason,
                lanes=[f"{lane.node_id} x{lane.count}" for lane in route.lanes],
            )
        self._tally.forget(gone)
        self._routes.update(changed)
        self._received = True
        self._tell({*gone, *changed})

    def is_here(self, slot: int) -> bool:
        """Whether a worker serves: it has its port and follows the routes."""
        session = self._sessions.get(slot)
        return session is not None and session.serves

    def silent_s(self, slot: int) -> float:
        """How long a worker hasn't said a word; 0 if it isn't here."""
        session = self._sessions.get(slot)
        return self._clock.monotonic_s() - session.heard_s if session else 0.0

    def leave(self, slot: int) -> None:
        """Take a worker's models away from it before it ends."""
        self._leaving.add(slot)
        self._tell(())

    def ended(self, worker: int) -> None:
        """Note that a worker's process is gone."""
        self._tally.left(worker)

    async def ConnectFrontend(  # noqa: N802 - named by the protocol
        self, requests: AsyncIterator[routing_pb2.ConnectFrontendRequest], context: Context
    ) -> AsyncIterator[routing_pb2.ConnectFrontendResponse]:
        """Hold a worker's stream: all routes first, then those that change."""
        hello = await anext(aiter(requests), None)
        if hello is None:
            raise InvalidArgumentError("the first request must introduce the worker")
        slot, worker = _slot_and_number(hello.frontend.id)
        session = _Session(worker, self._clock.monotonic_s())
        self._sessions[slot] = session
        self._leaving.discard(slot)
        reader = asyncio.create_task(self._read(session, hello, requests))
        try:
            while not (reader.done() or self._stop.is_set()):
                if (news := self._news(session)) is not None:
                    yield news
                await wait_any([session.news.wait(), self._stop.wait(), _ended(reader)], _LOOK_S)
        finally:
            reader.cancel()
            if self._sessions.get(slot) is session:
                del self._sessions[slot]
                self._tell(())
            self.changed.set()

    async def _read(
        self,
        session: _Session,
        hello: routing_pb2.ConnectFrontendRequest,
        requests: AsyncIterator[routing_pb2.ConnectFrontendRequest],
    ) -> None:
        self._tally.report(session.worker, hello.demands)
        with suppress(grpc.aio.AioRpcError):
            async for request in requests:
                session.heard_s = self._clock.monotonic_s()
                if request.frontend.address and not session.serves:
                    session.serves = True
                    self._tell(())
                    self.changed.set()
                self._tally.report(session.worker, request.demands)
                if any(it.backlog and not self._has_lanes(it.model) for it in request.demands):
                    self.hurry.set()

    def _has_lanes(self, model: str) -> bool:
        route = self._routes.get(model)
        return route is not None and bool(route.lanes)

    def _tell(self, changed: Collection[str]) -> None:
        """Settle homes anew and let all workers know of it, and of the changed routes."""
        # One that serves has heard the routes, and knows what others pass on to it.
        serving = {slot for slot, session in self._sessions.items() if session.serves}
        slots = sorted(serving - self._leaving)
        homes = settle(self._homes, self._routes, slots)
        moved = {model for model, home in homes.items() if self._homes.get(model) != home}
        self._homes = homes
        if moved:
            logger().info("homes.changed", homes={model: homes[model] for model in sorted(moved)})
        for session in self._sessions.values():
            if session.unsaid is not None:
                session.unsaid |= moved.union(changed)
            session.news.set()

    def _news(self, session: _Session) -> routing_pb2.ConnectFrontendResponse | None:
        """Give what a worker must hear now."""
        session.news.clear()
        if not self._received:
            # So that it knows that there are none yet, and need not wait for them.
            is_first, session.greeted = not session.greeted, True
            return routing_pb2.ConnectFrontendResponse() if is_first else None
        unsaid = session.unsaid
        session.unsaid = set()
        if unsaid is None:
            routes = [self._route(model) for model in sorted(self._routes)]
            return routing_pb2.ConnectFrontendResponse(snapshot=True, routes=routes)
        if not unsaid:
            return None
        return routing_pb2.ConnectFrontendResponse(
            routes=[self._route(model) for model in sorted(unsaid & self._routes.keys())],
            removed=sorted(unsaid - self._routes.keys()),
        )

    def _route(self, model: str) -> routing_pb2.ModelRoute:
        route = routing_pb2.ModelRoute()
        route.CopyFrom(self._routes[model])
        route.home = self._homes.get(model, 0)
        return route


def _slot_and_number(name: str) -> tuple[int, int]:
    """Give a worker's place and number.

    Raises:
        InvalidArgumentError: that is no worker's name.
    """
    slot, _, worker = name.partition(".")
    if not (slot.isdigit() and worker.isdigit()):
        raise InvalidArgumentError(f"{name!r} is no worker of this frontend")
    return int(slot), int(worker)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
