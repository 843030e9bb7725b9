"""Starts the controller: settings and wiring."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from paldia.api.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
)
from paldia.core.config import PolicyConfig
from paldia.core.errors import UnavailableError
from paldia.kit import lifecycle
from paldia.kit.clock import SystemClock
from paldia.kit.observability import configure_logging, logger
from paldia.kit.rpc import RpcServer
from paldia.kit.settings import ServiceSettings
from paldia.store.base import Store
from paldia.store.embedded import EmbeddedStore
from paldia.store.etcd import EtcdStore
from paldia_controller.artifacts import Artifacts
from paldia_controller.control import ControlService
from paldia_controller.observer import Observer
from paldia_controller.planner import Planner
from paldia_controller.profiling import Profiling
from paldia_controller.retention import Retention
from paldia_controller.state import State
from paldia_controller.streams import AgentService, RoutingService, Streams
from paldia_controller.views import Views
from paldia_controller.writing import ModelWriter

GRACE_S = 3.0
STORE_LIMIT_S = 20.0
"""Longest wait for the store at the start."""


class Settings(ServiceSettings):
    """Chooses hardware and sharing for every model, and tells agents and frontends."""

    bind: str = Field(default="127.0.0.1:8100", description="address to listen on, HOST:PORT")
    store: Literal["embedded", "etcd"] = Field(
        default="embedded", description="where state is kept: a file in --data-dir, or etcd"
    )
    etcd_endpoints: str = Field(
        default="127.0.0.1:2379", description="etcd's addresses, separated by commas"
    )
    data_dir: Path = Field(
        default=Path(".paldia/controller"), description="folder for artifacts and embedded state"
    )
    tick_s: float = Field(default=1.0, gt=0, description="seconds between planning steps")


def main() -> None:
    """Run the controller until SIGTERM."""
    settings = Settings.from_command_line()
    configure_logging("controller", settings.log_level, settings.log_format)
    sys.exit(lifecycle.run(lambda stop: serve(settings, stop)))


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`.

    Raises:
        UnavailableError: the port is taken, or the store can't be used.
    """
    clock = SystemClock()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    server = RpcServer(settings.bind, insecure=settings.insecure)
    store = open_store(settings)
    state = State(store)
    observer = Observer(state, clock)
    profiling = Profiling()
    views = Views(state, observer, profiling)
    planner = Planner(state, observer, profiling, views, config=PolicyConfig(), clock=clock)
    artifacts = Artifacts(settings.data_dir / "artifacts")
    streams = Streams(state, observer, views, stop)
    control = ControlService(
        state,
        observer,
        profiling,
        planner,
        views=views,
        artifacts=artifacts,
        writer=ModelWriter(state, artifacts, clock, stop),
        clock=clock,
        controller_id=f"{socket.gethostname()}-{settings.bind}",
        stop=stop,
    )
    control_pb2_grpc.add_ControlServiceServicer_to_server(control, server.server)
    agents = AgentService(streams, artifacts)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, server.server)
    routing_pb2_grpc.add_RoutingServiceServicer_to_server(RoutingService(streams), server.server)
    follower = asyncio.create_task(state.follow())
    try:
        await _first_picture(state, follower, settings)
        planner.restore()
        address = await server.start(
            module.DESCRIPTOR.services_by_name[name].full_name
            for module, name in (
                (control_pb2, "ControlService"),
                (agent_pb2, "AgentService"),
                (routing_pb2, "RoutingService"),
            )
        )
        logger().info("controller.serving", address=address, store=store.kind)
        lifecycle.announce_ready(settings.ready_file, {"grpc": address})
        planning = asyncio.create_task(planner.run(stop, settings.tick_s))
        forgetting = asyncio.create_task(Retention(state, artifacts, clock).run(stop))
        # Each of these ends early only by an error, which must not pass unseen.
        tasks = {planning, forgetting, follower}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await server.stop(GRACE_S)
        if follower.done():
            await follower
        await asyncio.gather(planning, forgetting)
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        await store.close()
    logger().info("controller.stopped")


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name."""
    if settings.store == "etcd":
        return EtcdStore([e.strip() for e in settings.etcd_endpoints.split(",") if e.strip()])
    return EmbeddedStore(settings.data_dir / "state.db")


async def _first_picture(state: State, follower: asyncio.Task[None], settings: Settings) -> None:
    """Wait until the store's contents are known."""
    synced = asyncio.create_task(state.synced(STORE_LIMIT_S))
    await asyncio.wait({synced, follower}, return_when=asyncio.FIRST_COMPLETED)
    if follower.done():
        synced.cancel()
        await follower
    try:
        await synced
    except TimeoutError as error:
        where = settings.etcd_endpoints if settings.store == "etcd" else settings.data_dir
        raise UnavailableError(
            f"the {settings.store} store at {where} gave no answer within {STORE_LIMIT_S:g} s"
        ) from error


if __name__ == "__main__":
    main()
