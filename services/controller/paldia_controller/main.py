"""Starts the controller: settings and wiring."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Literal

import grpc.aio
from pydantic import Field

from paldia.api.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
)
from paldia.core.baselines import LIVE_POLICIES, PALDIA, live_policy_named
from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.kit import lifecycle
from paldia.kit.clock import SystemClock
from paldia.kit.observability import configure_logging, logger
from paldia.kit.rpc import RpcServer
from paldia.kit.settings import ServiceSettings
from paldia.store.base import Store
from paldia.store.embedded import EmbeddedStore
from paldia.store.etcd import EtcdStore
from paldia_controller.artifacts import Artifacts
from paldia_controller.command import CommandProvisioner
from paldia_controller.control import ControlService
from paldia_controller.fleet import Fleet
from paldia_controller.fleetfile import read_fleet
from paldia_controller.observer import Observer
from paldia_controller.planner import Planner
from paldia_controller.profiling import IDLE_S, Profiling
from paldia_controller.provisioner import Provisioner, StaticProvisioner
from paldia_controller.provisioning import Patience, Provisioning
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
    policy: str = Field(
        default=PALDIA.name,
        description="what decides: paldia, or for comparison one of "
        + ", ".join(policy.name for policy in LIVE_POLICIES if policy is not PALDIA),
    )
    peak_quantile: float = Field(
        default=PolicyConfig().peak_quantile,
        gt=0,
        lt=1,
        description="how sure to be that hardware suffices until more could be there; the lower, "
        "the sooner hardware is left that was needed for a while",
    )
    idle_s: float = Field(
        default=IDLE_S,
        ge=0,
        le=86400,
        description="time without requests after which a node may measure models in full",
    )
    provisioner: Literal["static", "command"] = Field(
        default="static",
        description="whether machines are simply there, or those of --fleet are had when needed",
    )
    fleet: Path | None = Field(
        default=None, description="file that lists the machines which --provision-command can get"
    )
    provision_command: str | None = Field(
        default=None,
        description="program, with first arguments, that is run with activate or release, a node "
        "and its hardware",
    )
    provision_limit_s: float = Field(
        default=60.0, gt=0, le=3600, description="time that one run of that program may take"
    )
    activation_slack_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="time that a machine may take to come beyond one and a half times that of "
        "its kind",
    )
    release_after_s: float = Field(
        default=60.0,
        ge=0,
        le=86400,
        description="time for which a machine is kept although nothing needs it",
    )


def main() -> None:
    """Run the controller until SIGTERM."""
    settings = Settings.from_command_line()
    configure_logging("controller", settings.log_level, settings.log_format)
    sys.exit(lifecycle.run(lambda stop: serve(settings, stop)))


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`.

    Raises:
        InvalidArgumentError: the settings don't go together, or the fleet's file is wrong.
        UnavailableError: the port is taken, or the store can't be used.
    """
    clock = SystemClock()
    policy = live_policy_named(settings.policy)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    server = RpcServer(settings.bind, insecure=settings.insecure)
    store = open_store(settings)
    state = State(store)
    provisioner = open_provisioner(settings)
    observer = Observer(state, clock, Fleet(state, provisioner.machines))
    profiling = Profiling(settings.idle_s)
    config = PolicyConfig(peak_quantile=settings.peak_quantile)
    provisioning = Provisioning(
        provisioner,
        state,
        observer,
        patience=Patience(
            settings.provision_limit_s, settings.activation_slack_s, settings.release_after_s
        ),
        config=config,
        clock=clock,
    )
    views = Views(state, observer, profiling, policy)
    planner = Planner(
        state,
        observer,
        profiling,
        provisioning,
        views,
        config=config,
        policy=policy,
        clock=clock,
    )
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
    names = _add_services(server.server, control, streams, artifacts)
    follower = asyncio.create_task(state.follow())
    try:
        await _first_picture(state, follower, settings)
        planner.restore()
        provisioning.restore()
        address = await server.start(names)
        logger().info("controller.serving", address=address, store=store.kind, policy=policy.name)
        lifecycle.announce_ready(settings.ready_file, {"grpc": address})
        loops = planner.run(stop, settings.tick_s), Retention(state, artifacts, clock).run(stop)
        await _run(loops, follower, server, stop)
    finally:
        await provisioning.close()
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        await store.close()
    logger().info("controller.stopped")


async def _run(
    loops: Iterable[Coroutine[None, None, None]],
    follower: asyncio.Task[None],
    server: RpcServer,
    stop: asyncio.Event,
) -> None:
    """Let loops run until `stop`; an error that ends one, or the follower, ends all."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    # Each ends early only by an error, which must not pass unseen.
    await asyncio.wait({*tasks, follower}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await server.stop(GRACE_S)
    if follower.done():
        await follower
    await asyncio.gather(*tasks)


def _add_services(
    server: grpc.aio.Server, control: ControlService, streams: Streams, artifacts: Artifacts
) -> list[str]:
    """Have a server offer all services; give their names."""
    control_pb2_grpc.add_ControlServiceServicer_to_server(control, server)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(AgentService(streams, artifacts), server)
    routing_pb2_grpc.add_RoutingServiceServicer_to_server(RoutingService(streams), server)
    return [
        service.full_name
        for module in (control_pb2, agent_pb2, routing_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name."""
    if settings.store == "etcd":
        return EtcdStore([e.strip() for e in settings.etcd_endpoints.split(",") if e.strip()])
    return EmbeddedStore(settings.data_dir / "state.db")


def open_provisioner(settings: Settings) -> Provisioner:
    """Give what gets machines, as the settings say.

    Raises:
        InvalidArgumentError: a setting is missing or is not used, the file can't be read or
            the program can't be run.
    """
    file, command = settings.fleet, settings.provision_command
    if settings.provisioner == "static":
        if file is not None or command is not None:
            raise InvalidArgumentError(
                "--fleet and --provision-command are for --provisioner command; set that too"
            )
        return StaticProvisioner()
    if file is None or command is None:
        raise InvalidArgumentError(
            "--provisioner command needs the machines, --fleet FILE, and the program that gets "
            "them, --provision-command 'PROGRAM ...'"
        )
    return CommandProvisioner(command, read_fleet(file))


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
