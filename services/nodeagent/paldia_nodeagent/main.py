"""The node agent: runs Triton on one machine as the controller wants it, and reports."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from paldia.api.v1 import agent_pb2
from paldia.core.errors import InvalidArgumentError, PaldiaError
from paldia.core.types import NAME_LIMIT
from paldia.kit import lifecycle
from paldia.kit.lifecycle import announce_ready
from paldia.kit.observability import configure_logging, logger
from paldia.kit.rpc import check_bind
from paldia.kit.settings import ServiceSettings
from paldia_nodeagent.allotment import allotments
from paldia_nodeagent.artifacts import ArtifactCache
from paldia_nodeagent.cores import parse_cores, pin
from paldia_nodeagent.devices.base import Accelerators
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.devices.nvidia import Gpus
from paldia_nodeagent.emulator.emulation import Emulation
from paldia_nodeagent.emulator.figures import machine_of
from paldia_nodeagent.home import Home
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.ledger import Ledger
from paldia_nodeagent.link import ControllerLink
from paldia_nodeagent.logs import LogRelay
from paldia_nodeagent.memory import Memory
from paldia_nodeagent.profiler import Profiler
from paldia_nodeagent.reconciler import Reconciler
from paldia_nodeagent.reporter import Reporter, describe_hardware
from paldia_nodeagent.runtime import Named, RuntimeFinder, named_for
from paldia_nodeagent.site import Site
from paldia_nodeagent.survey import Bench
from paldia_nodeagent.throttle import Throttle
from paldia_nodeagent.upkeep import keep_up, look_for_triton

_EMULATED = "emulated:"
_EMULATOR_CHANGES_S = 15.0


class NodeAgentSettings(ServiceSettings):
    """Runs Triton on this machine as the controller wants it, and reports."""

    controller: str = Field(description="address of the controller, HOST:PORT")
    node_id: str = Field(min_length=1, max_length=NAME_LIMIT, description="name of this node")
    hardware: str = Field(
        min_length=1,
        max_length=NAME_LIMIT,
        description="kind of this machine; equal kinds share profiles; the catalog's name for an "
        "emulated one by default",
    )
    price_usd_per_hour: float = Field(
        ge=0,
        allow_inf_nan=False,
        description="what it costs; the catalog's price for an emulated machine by default",
    )
    data_dir: Path = Field(description="folder for all that the agent keeps")
    device: str = Field(
        default="auto",
        description="auto for the machine as it is, or emulated:KIND for a GPU machine of the "
        "catalog, such as emulated:p3.2xlarge",
    )
    workloads: Path | None = Field(
        default=None, description="file of workloads to emulate, beside the catalog's"
    )
    cores: str | None = Field(
        default=None, description="CPU cores to use, such as 0,2-3; all by default"
    )
    slowdown: float = Field(
        default=1.0, ge=1, le=100, description="how many times slower to run models, on purpose"
    )
    triton_host: str = Field(
        default="127.0.0.1",
        description="address Triton listens on, as frontends reach it; needs --insecure if it "
        "isn't loopback",
    )
    tritonserver: Path | None = Field(
        default=None,
        description="Triton's program; by default the one of its kind of hardware, or found by "
        "itself",
    )
    hardware_file: Path | None = Field(
        default=None,
        description="file of kinds of hardware, beside the catalog's; says which Triton is theirs",
    )
    drain_s: float = Field(
        default=3.0, ge=0, le=600, description="time frontends have to leave a model that goes"
    )
    load_limit_s: float = Field(
        default=60.0, gt=0, le=3600, description="time a model may take to load"
    )
    gpu_memory_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of a GPU's memory that one model may take, where MPS runs",
    )
    stall_s: float = Field(
        default=3.0,
        ge=2,
        le=3600,
        description="time a model may show no life, loading or serving, before it counts as hung",
    )
    memory_limit_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="share of the machine's memory that one model's Triton may hold; near it, "
        "another takes its place",
    )

    @property
    def emulated_kind(self) -> str:
        """The machine to emulate; empty for none."""
        return self.device.removeprefix(_EMULATED) if self.device != "auto" else ""

    @model_validator(mode="before")
    @classmethod
    def _from_catalog(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take an emulated machine's name and price from the catalog, unless they are given."""
        device = str(given.get("device", "auto"))
        if device == "auto":
            return given
        if not device.startswith(_EMULATED):
            raise ValueError(f"--device is auto or {_EMULATED}KIND, not {device!r}")
        try:
            hardware = machine_of(device.removeprefix(_EMULATED)).hardware
        except InvalidArgumentError as error:
            raise ValueError(f"--device {device}: {error}") from error
        price = hardware.price_usd_per_hour
        return {"hardware": hardware.name, "price_usd_per_hour": price, **given}


async def serve(settings: NodeAgentSettings, stop: asyncio.Event) -> None:
    """Run the agent until `stop`, then end all it runs."""
    check_bind(f"{settings.triton_host}:0", insecure=settings.insecure)
    home = Home(settings.data_dir)
    cpu, emulation = Cpu(), _emulation(settings, home)
    accelerators = _accelerators(settings, home, emulation)
    finder = RuntimeFinder(_named_triton(settings), home.backends)
    throttle, logs = _throttle(settings), LogRelay()
    launcher = Launcher(
        Site(
            home,
            Ledger(home.runs),
            finder,
            throttle,
            accelerators,
            Memory(int(settings.memory_limit_share * cpu.memory_bytes), cpu.memory_free_bytes),
            logs,
            host=settings.triton_host,
            load_limit_s=settings.load_limit_s,
            device=settings.device,
            emulation=emulation,
            stall_s=_stall_s(settings),
        )
    )
    link = ControllerLink(settings.controller)
    artifacts = ArtifactCache(home.artifacts, link.fetch)
    reconciler = Reconciler(launcher, artifacts, drain_s=settings.drain_s, on_change=link.wake)
    profiler = Profiler(
        Bench(launcher, cpu, accelerators, slowdown=settings.slowdown),
        artifacts,
        node_id=settings.node_id,
        hardware=settings.hardware,
        busy_s=reconciler.busy_s,
        on_change=link.wake,
    )
    reporter = Reporter(cpu, accelerators, finder, reconciler, profiler)
    node = functools.partial(_introduction, settings, cpu, accelerators, emulation)

    async def take(response: agent_pb2.ConnectAgentResponse) -> None:
        reconciler.want(allotments(response))
        profiler.want(response.profile_tasks)
        artifacts.keep(reconciler.digests() | profiler.digests())

    try:
        await look_for_triton(finder)
        ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(accelerators.running())
            reconciler.adopt(await launcher.take_over())
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stream = tasks.create_task(link.run(node, reporter.report, take, ended))
            profiling = tasks.create_task(profiler.run())
            upkeep = tasks.create_task(keep_up(finder, throttle, logs, on_change=link.wake))
            announce_ready(settings.ready_file, {"node_id": settings.node_id})
            logger().info("agent.ready", node_id=settings.node_id, cores=cpu.cores)
            await stop.wait()
            logger().info("agent.stopping")
            # The stream stays open while the models drain, so that routes move in time.
            await asyncio.gather(profiler.shut_down(), reconciler.shut_down())
            profiling.cancel()
            upkeep.cancel()
            ended.set()
            await stream
    finally:
        throttle.stop()
        await link.close()
        home.close()


def _accelerators(
    settings: NodeAgentSettings, home: Home, emulation: Emulation | None
) -> Accelerators:
    if emulation is not None:
        return emulation.gpu
    return Gpus(home.mps, memory_share=settings.gpu_memory_share)


def _named_triton(settings: NodeAgentSettings) -> Named | None:
    """Give the Triton that is to run here; an emulated card's own would be none of this machine."""
    if settings.tritonserver is not None:
        return Named(settings.tritonserver, "--tritonserver")
    return None if settings.emulated_kind else named_for(settings.hardware, settings.hardware_file)


def _throttle(settings: NodeAgentSettings) -> Throttle:
    # An emulated card is slowed itself.
    return Throttle(1.0 if settings.emulated_kind else settings.slowdown)


def _stall_s(settings: NodeAgentSettings) -> float:
    # Models on an emulated card wait while a new emulator takes the place of one that died.
    return max(settings.stall_s, _EMULATOR_CHANGES_S if settings.emulated_kind else 0.0)


def _emulation(settings: NodeAgentSettings, home: Home) -> Emulation | None:
    """Give what emulates the machine that is asked for, if any."""
    if not settings.emulated_kind:
        return None
    return Emulation(settings.emulated_kind, settings.workloads, home, speed=1 / settings.slowdown)


def _introduction(
    settings: NodeAgentSettings, cpu: Cpu, accelerators: Accelerators, emulation: Emulation | None
) -> agent_pb2.NodeInfo:
    """Say who the node is."""
    node = agent_pb2.NodeInfo(
        node_id=settings.node_id,
        hardware=emulation.hardware() if emulation else describe_hardware(cpu, accelerators),
        agent_version=importlib.metadata.version("paldia"),
    )
    node.hardware.name = settings.hardware
    node.hardware.price_usd_per_hour = settings.price_usd_per_hour
    return node


def main() -> int:
    """Run the node agent; give its exit code."""
    settings = NodeAgentSettings.from_command_line()
    configure_logging("nodeagent", settings.log_level, settings.log_format)
    if settings.cores is not None:
        try:
            pin(parse_cores(settings.cores))
        except PaldiaError as error:
            print(f"paldia-nodeagent: {error}", file=sys.stderr)
            return 2
    return lifecycle.run(lambda stop: serve(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
