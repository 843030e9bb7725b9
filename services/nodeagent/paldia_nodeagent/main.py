"""The node agent: runs Triton on one machine as the controller wants it, and reports."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import sys
from pathlib import Path

from pydantic import Field

from paldia.api.v1 import agent_pb2
from paldia.core.errors import PaldiaError
from paldia.core.types import NAME_LIMIT
from paldia.kit import lifecycle
from paldia.kit.lifecycle import announce_ready
from paldia.kit.observability import configure_logging, logger
from paldia.kit.rpc import check_bind
from paldia.kit.settings import ServiceSettings
from paldia_nodeagent.allotment import allotments
from paldia_nodeagent.artifacts import ArtifactCache
from paldia_nodeagent.cores import parse_cores, pin
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.devices.nvidia import Gpus
from paldia_nodeagent.home import Home
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.ledger import Ledger
from paldia_nodeagent.link import ControllerLink
from paldia_nodeagent.profiler import Profiler
from paldia_nodeagent.reconciler import Reconciler
from paldia_nodeagent.reporter import Reporter, describe_node
from paldia_nodeagent.runtime import RuntimeFinder
from paldia_nodeagent.throttle import Throttle
from paldia_nodeagent.triton import Site
from paldia_nodeagent.upkeep import keep_up, look_for_triton


class NodeAgentSettings(ServiceSettings):
    """Runs Triton on this machine as the controller wants it, and reports."""

    controller: str = Field(description="address of the controller, HOST:PORT")
    node_id: str = Field(min_length=1, max_length=NAME_LIMIT, description="name of this node")
    hardware: str = Field(
        min_length=1,
        max_length=NAME_LIMIT,
        description="kind of this machine; equal kinds share profiles",
    )
    price_usd_per_hour: float = Field(ge=0, allow_inf_nan=False, description="what it costs")
    data_dir: Path = Field(description="folder for all that the agent keeps")
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
        default=None, description="Triton's program; found by itself by default"
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


async def serve(settings: NodeAgentSettings, stop: asyncio.Event) -> None:
    """Run the agent until `stop`, then end all it runs."""
    check_bind(f"{settings.triton_host}:0", insecure=settings.insecure)
    home = Home(settings.data_dir)
    cpu, accelerators = Cpu(), Gpus(home.mps, memory_share=settings.gpu_memory_share)
    finder = RuntimeFinder(settings.tritonserver, home.backends)
    throttle = Throttle(settings.slowdown)
    launcher = Launcher(
        Site(
            home,
            Ledger(home.runs),
            finder,
            throttle,
            accelerators,
            host=settings.triton_host,
            load_limit_s=settings.load_limit_s,
        )
    )
    link = ControllerLink(settings.controller)
    artifacts = ArtifactCache(home.artifacts, link.fetch)
    reconciler = Reconciler(launcher, artifacts, drain_s=settings.drain_s, on_change=link.wake)
    profiler = Profiler(
        launcher,
        artifacts,
        node_id=settings.node_id,
        hardware=settings.hardware,
        cores=cpu.cores,
        slowdown=settings.slowdown,
        on_change=link.wake,
    )
    reporter = Reporter(cpu, accelerators, finder, reconciler, profiler)
    node = functools.partial(
        describe_node,
        cpu,
        accelerators,
        node_id=settings.node_id,
        hardware=settings.hardware,
        price_usd_per_hour=settings.price_usd_per_hour,
        version=importlib.metadata.version("paldia"),
    )

    async def take(response: agent_pb2.ConnectAgentResponse) -> None:
        reconciler.want(allotments(response))
        profiler.want(response.profile_tasks)
        artifacts.keep(reconciler.digests() | profiler.digests())

    try:
        await asyncio.to_thread(accelerators.start)
        await look_for_triton(finder)
        reconciler.adopt(await launcher.take_over())
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            stream = tasks.create_task(link.run(node, reporter.report, take, ended))
            profiling = tasks.create_task(profiler.run())
            upkeep = tasks.create_task(keep_up(finder, throttle, on_change=link.wake))
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
        await asyncio.to_thread(accelerators.stop)
        await link.close()
        home.close()


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
