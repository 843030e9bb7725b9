"""One of the frontend's processes that serve: it shares the port with the others.

It is run by the supervisor, whom it takes for its controller.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time

import structlog
from prometheus_client import values

from paldia.api import convert
from paldia.api.v1 import routing_pb2
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.types import Limits
from paldia.kit.clock import Clock, SystemClock
from paldia.kit.lifecycle import run, sleep_unless, wait_any
from paldia.kit.memory import give_back_large_memory
from paldia.kit.observability import configure_logging, logger
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.effort import Effort
from paldia_frontend.exchange.homeward import Homeward
from paldia_frontend.exchange.inbox import Inbox
from paldia_frontend.exchange.peers import Peers
from paldia_frontend.follower import RouteFollower
from paldia_frontend.home import Home
from paldia_frontend.inventory import Inventory
from paldia_frontend.keeper import RouteKeeper
from paldia_frontend.metrics import Metrics, RequestLog
from paldia_frontend.port import open_port
from paldia_frontend.routes import RouteTable
from paldia_frontend.servicer import SERVICE_NAME, InferenceService
from paldia_frontend.settings import WorkerSettings
from paldia_frontend.upstream import Upstreams

GRACE_S = 8.0
"""How long requests that are in may take to end once the frontend stops; who stops processes
commonly waits for ten seconds before killing them."""
_GAUGES_S = 1.0
_EFFORT_S = 0.1
_AGED = 1.5
"""By so many times their age all connections have gone: gRPC varies it by a tenth."""
_UNREAD_MESSAGES = 2
"""How many of the largest messages another worker may leave unread before it is asked no more."""


async def serve(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`, then let what is in come to its end."""
    give_back_large_memory()
    clock, metrics = SystemClock(), Metrics()
    limit_bytes = settings.message_limit_bytes
    received_bytes = settings.received_limit_bytes
    kernel = DispatchKernel(_limits(limit_bytes, settings.cold_wait_s))
    upstreams = Upstreams(received_bytes)
    table = RouteTable(kernel.limits.requests_per_model)
    dispatcher = Dispatcher(
        kernel,
        upstreams,
        clock,
        metrics,
        message_limit_bytes=limit_bytes,
        on_cold_wait=table.hurry.set,
    )
    keeper = RouteKeeper(table, kernel.counters, dispatcher.checks, dispatcher.take_routes)
    follower = RouteFollower(settings.controller, table.hurry, keeper.demands, keeper.take)
    home = Home(table, dispatcher, clock)
    peers = Peers(settings.folder, _UNREAD_MESSAGES * received_bytes)
    inbox = Inbox(home)
    servicer = InferenceService(
        table=table,
        homeward=Homeward(settings.slot, home, peers),
        inventory=Inventory(table, upstreams),
        clock=clock,
        metrics=metrics,
        requests=RequestLog(clock, successes=settings.log_level == "debug"),
        stop=stop,
        message_limit_bytes=limit_bytes,
        cold_wait_s=settings.cold_wait_s,
    )
    renewed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renewed.set)
    server = open_port(settings, metrics)
    servicer.add_to(server.server)
    drained = asyncio.Event()
    try:
        async with inbox.serve(settings.folder, settings.slot):
            me = routing_pb2.FrontendInfo(
                id=settings.name, started_at=convert.timestamp(time.time())
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follower.follow(me, drained))
                tasks.create_task(_keep_gauges(kernel, metrics, drained))
                tasks.create_task(_watch_effort(dispatcher.effort, clock, drained))
                # Clients are served with the routes that the others have, if they have any.
                await wait_any([keeper.heard.wait(), stop.wait()], math.inf)
                me.address = await server.start([SERVICE_NAME])
                table.hurry.set()
                await wait_any([stop.wait(), renewed.wait()], math.inf)
                logger().info("worker.draining")
                if not stop.is_set():
                    # Another has taken over, so clients need not notice.
                    limit_s = _AGED * settings.connection_age_s
                    await wait_any([stop.wait(), server.drain(limit_s)], math.inf)
                # Routes are followed and others answered meanwhile: what is queued must still
                # find its lanes, and may be theirs.
                await server.stop(GRACE_S)
                await inbox.idle(GRACE_S)
                drained.set()
    finally:
        await peers.close()
        await upstreams.close()


def _limits(message_limit_bytes: int, cold_wait_s: float) -> Limits:
    """Give the queues' limits; a few of the largest messages always fit."""
    usual = Limits()
    return Limits(
        bytes_per_model=max(usual.bytes_per_model, 4 * message_limit_bytes),
        bytes_in_all=max(usual.bytes_in_all, 8 * message_limit_bytes),
        cold_wait_s=cold_wait_s,
    )


async def _keep_gauges(kernel: DispatchKernel, metrics: Metrics, stop: asyncio.Event) -> None:
    while not await sleep_unless(stop, _GAUGES_S):
        for model, counters in kernel.counters.items():
            metrics.backlog_rows.labels(model).set(counters.backlog)


async def _watch_effort(effort: Effort, clock: Clock, stop: asyncio.Event) -> None:
    while not await sleep_unless(stop, _EFFORT_S):
        effort.sample(clock.monotonic_s(), time.process_time())


def main() -> None:
    """Run it; all that it is told is in its environment."""
    settings = WorkerSettings.from_command_line([])
    configure_logging("frontend", settings.log_level, settings.log_format)
    structlog.contextvars.bind_contextvars(worker=settings.slot)
    # Files by place, not by process: who takes a place over goes on counting where the last one
    # ended, and there are never more files than places.
    values.ValueClass = values.MultiProcessValue(lambda: settings.slot)  # type: ignore[no-untyped-call]
    sys.exit(run(lambda stop: serve(settings, stop)))


if __name__ == "__main__":
    main()
