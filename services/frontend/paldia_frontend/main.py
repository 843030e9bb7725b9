"""paldia-frontend: the address that clients talk to, and the processes that serve it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time

from paldia.api import convert
from paldia.api.v1 import routing_pb2, routing_pb2_grpc
from paldia.kit.clock import SystemClock
from paldia.kit.lifecycle import announce_ready, run, wait_any
from paldia.kit.observability import configure_logging, logger
from paldia.kit.rpc import RpcServer
from paldia_frontend.follower import RouteFollower
from paldia_frontend.settings import FrontendSettings
from paldia_frontend.supervisor.crew import START_S, Crew
from paldia_frontend.supervisor.relay import Relay
from paldia_frontend.supervisor.workplace import Workplace


async def serve(settings: FrontendSettings, stop: asyncio.Event) -> None:
    """Have workers serve until `stop`; they let what is in come to its end.

    SIGHUP replaces them one after the other, and no call fails for it.
    """
    with (
        Workplace.opened(settings.bind, insecure=settings.insecure) as workplace,
        workplace.serving_metrics(settings.metrics_bind, insecure=settings.insecure) as metrics,
    ):
        ended = asyncio.Event()
        relay = Relay(SystemClock(), ended)
        crew = Crew(settings, workplace, relay, stop)
        server = RpcServer(workplace.relay_address)
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(relay, server.server)
        await server.start([routing_pb2.DESCRIPTOR.services_by_name["RoutingService"].full_name])
        follower = RouteFollower(settings.controller, relay.hurry, relay.demands, relay.take)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, crew.renew)
        try:
            async with asyncio.TaskGroup() as tasks:
                working = tasks.create_task(crew.run())
                await wait_any([crew.all_ready.wait(), stop.wait(), _ended(working)], START_S)
                me = routing_pb2.FrontendInfo(
                    id=settings.frontend_id or f"{socket.gethostname()}-{os.getpid()}",
                    address=workplace.address,
                    started_at=convert.timestamp(time.time()),
                )
                tasks.create_task(follower.follow(me, ended))
                if crew.all_ready.is_set():
                    facts = {"grpc": workplace.address, "metrics": metrics}
                    announce_ready(settings.ready_file, facts)
                    logger().info("frontend.serving", workers=settings.workers, **facts)
                await stop.wait()
                logger().info("frontend.draining")
                # Routes are followed meanwhile: what is queued must still find its lanes.
                await working
                ended.set()
        finally:
            ended.set()
            await server.stop(0)
    logger().info("frontend.stopped")


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


def main() -> None:
    """Run the console script."""
    settings = FrontendSettings.from_command_line()
    configure_logging("frontend", settings.log_level, settings.log_format)
    sys.exit(run(lambda stop: serve(settings, stop)))
