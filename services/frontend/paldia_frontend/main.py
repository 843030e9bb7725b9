"""paldia-frontend: the process that clients talk to."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

from pydantic import Field
from tritonclient.grpc import service_pb2_grpc

from paldia.api import convert
from paldia.api.v1 import routing_pb2
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.types import Limits
from paldia.kit.clock import SystemClock
from paldia.kit.lifecycle import announce_ready, run, sleep_unless
from paldia.kit.observability import configure_logging, logger
from paldia.kit.rpc import RpcServer, check_bind
from paldia.kit.settings import ServiceSettings
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.follower import RouteFollower
from paldia_frontend.inventory import Inventory
from paldia_frontend.metrics import Metrics, RequestLog
from paldia_frontend.routes import RouteTable
from paldia_frontend.servicer import SERVICE_NAME, InferenceService
from paldia_frontend.upstream import Upstreams

_GRACE_S = 8.0
"""How long requests that are in may take to end once the frontend stops; who stops processes
commonly waits for ten seconds before killing them."""
_GAUGES_S = 1.0


class FrontendSettings(ServiceSettings):
    """What paldia-frontend can be told."""

    controller: str = Field(description="the controller's address, HOST:PORT")
    bind: str = Field(default="127.0.0.1:8001", description="address to serve inference on")
    metrics_bind: str = Field(
        default="127.0.0.1:8002", description="address to serve Prometheus metrics on"
    )
    frontend_id: str = Field(
        default="", description="name of this frontend; made from host and process if empty"
    )
    message_limit_mib: int = Field(
        default=128, ge=1, le=1000, description="largest request or answer, in MiB"
    )
    cold_wait_s: float = Field(
        default=30.0, ge=0, description="longest wait of a request for a model that is not loaded"
    )


async def serve(settings: FrontendSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`, then let what is in come to its end."""
    clock, metrics = SystemClock(), Metrics()
    limit_bytes = settings.message_limit_mib << 20
    metrics_host = check_bind(settings.metrics_bind, insecure=settings.insecure).strip("[]")
    # Room beyond the limit, so that what is a little over it gets an error of ours that
    # names the setting. Contents may also grow when they are put into raw form.
    with_room_bytes = 2 * limit_bytes + (1 << 20)
    kernel = DispatchKernel(_limits(limit_bytes, settings.cold_wait_s))
    upstreams = Upstreams(with_room_bytes)
    table = RouteTable(kernel.limits.requests_per_model)
    dispatcher = Dispatcher(
        kernel,
        upstreams,
        clock,
        metrics,
        message_limit_bytes=limit_bytes,
        on_cold_wait=table.hurry.set,
    )
    follower = RouteFollower(
        settings.controller, table, kernel.counters, dispatcher.checks, dispatcher.take_routes
    )
    servicer = InferenceService(
        table=table,
        dispatcher=dispatcher,
        inventory=Inventory(table, upstreams),
        clock=clock,
        metrics=metrics,
        requests=RequestLog(clock, successes=settings.log_level == "debug"),
        stop=stop,
        message_limit_bytes=limit_bytes,
        cold_wait_s=settings.cold_wait_s,
    )
    server = RpcServer(
        settings.bind, insecure=settings.insecure, message_limit_bytes=with_room_bytes
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server.server)
    http = metrics.serve(metrics_host, int(settings.metrics_bind.rpartition(":")[2]))
    drained = asyncio.Event()
    try:
        address = await server.start([SERVICE_NAME])
        frontend = routing_pb2.FrontendInfo(
            id=settings.frontend_id or f"{socket.gethostname()}-{os.getpid()}",
            address=address,
            started_at=convert.timestamp(time.time()),
        )
        metrics_address = f"{metrics_host}:{http.server_port}"
        announce_ready(settings.ready_file, {"grpc": address, "metrics": metrics_address})
        logger().info("frontend.serving", address=address, metrics=metrics_address)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follower.follow(frontend, drained))
            tasks.create_task(_keep_gauges(kernel, metrics, drained))
            await stop.wait()
            logger().info("frontend.draining")
            # Routes are followed meanwhile: what is queued must still find its lanes.
            await server.stop(_GRACE_S)
            drained.set()
    finally:
        http.shutdown()
        await upstreams.close()
    logger().info("frontend.stopped")


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


def main() -> None:
    """Run the console script."""
    settings = FrontendSettings.from_command_line()
    configure_logging("frontend", settings.log_level, settings.log_format)
    sys.exit(run(lambda stop: serve(settings, stop)))
