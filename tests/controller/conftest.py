"""A real controller process, and an agent and a frontend played over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2

from paldia.api import artifact, convert
from paldia.api.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
    types_pb2,
)
from paldia.kit.rpc import open_channel

LIMIT_S = 15.0


@dataclass
class Controller:
    """A controller process."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    address: str = ""

    def start(self, *flags: str) -> None:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        bind = self.address or "127.0.0.1:0"
        command = [
            str(Path(sys.executable).with_name("paldia-controller")),
            *("--bind", bind, "--data-dir", str(self.folder / "data"), "--tick-s", "0.2"),
            *("--ready-file", str(ready), *flags),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        while not ready.exists():
            if self.process.poll() is not None:
                raise AssertionError((self.folder / "log").read_text())
            try:
                self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        self.address = json.loads(ready.read_text())["grpc"]

    def stop(self, signum: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(LIMIT_S)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    running = Controller(tmp_path)
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop(signal.SIGKILL)


async def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition; its value is given back."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)
    raise AssertionError(what)


@dataclass
class Agent:
    """An agent that says it has done whatever it is told, at once."""

    node_id: str
    hardware: str
    price: float
    latency_s: float = 0.01
    failure: str = ""
    loads: bool = True
    desired: agent_pb2.ConnectAgentResponse = field(default_factory=agent_pb2.ConnectAgentResponse)
    fetched: dict[str, bytes] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, address: str) -> None:
        async with open_channel(address) as channel:
            stub = agent_pb2_grpc.AgentServiceStub(channel)
            async for desired in stub.ConnectAgent(self._requests()):
                self.desired = desired
                for wanted in (*desired.deployments, *desired.profile_tasks):
                    if wanted.artifact_digest not in self.fetched:
                        self.fetched[wanted.artifact_digest] = await _fetch(
                            stub, wanted.artifact_digest
                        )
                self._wake.set()

    async def _requests(self) -> AsyncIterator[agent_pb2.ConnectAgentRequest]:
        hardware = types_pb2.Hardware(
            name=self.hardware,
            price_usd_per_hour=self.price,
            memory_bytes=1 << 33,
            cores=1,
            idle_watts=10.0,
            rated_watts=50.0,
        )
        node = agent_pb2.NodeInfo(node_id=self.node_id, hardware=hardware)
        yield agent_pb2.ConnectAgentRequest(node=node, report=self._report())
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 0.5)
            self._wake.clear()
            yield agent_pb2.ConnectAgentRequest(report=self._report())

    def _report(self) -> agent_pb2.NodeReport:
        state = types_pb2.PLACEMENT_STATE_READY if self.loads else types_pb2.PLACEMENT_STATE_LOADING
        return agent_pb2.NodeReport(
            deployments=[
                agent_pb2.DeploymentStatus(
                    model=wanted.model,
                    artifact_digest=wanted.artifact_digest,
                    state=state,
                    endpoint=f"{self.node_id}:1",
                    lanes=wanted.lanes,
                )
                for wanted in self.desired.deployments
            ],
            profile_results=[self._measure(task) for task in self.desired.profile_tasks],
        )

    def _measure(self, task: agent_pb2.ProfileTask) -> agent_pb2.ProfileResult:
        profile = types_pb2.Profile(
            artifact_digest=task.artifact_digest,
            hardware=self.hardware,
            node_id=self.node_id,
            failure=self.failure,
            full=task.full,
        )
        if not self.failure:
            profile.load.CopyFrom(convert.duration(1))
            profile.memory_bytes = 1 << 26
            profile.demand.add(batch_size=1, share=1.0)
            profile.provenance = types_pb2.PROVENANCE_MEASURED
            for size in (1, 2):
                latency = convert.duration(self.latency_s * size)
                profile.points.add(batch_size=size, latency=latency, samples=3)
        return agent_pb2.ProfileResult(
            task_id=task.task_id,
            profile=profile,
            model_config=model_config_pb2.ModelConfig(name="profiled").SerializeToString(),
        )


async def _fetch(stub: Any, digest: str) -> bytes:
    request = agent_pb2.FetchArtifactRequest(digest=digest)
    return b"".join([piece.chunk async for piece in stub.FetchArtifact(request)])


@dataclass
class Frontend:
    """A frontend that keeps the routes it is told and reports what a test offers."""

    frontend_id: str = "frontend"
    routes: dict[str, routing_pb2.ModelRoute] = field(default_factory=dict)
    snapshots: int = 0
    offered: dict[str, float] = field(default_factory=dict)
    rate: dict[str, float] = field(default_factory=dict)
    backlog: dict[str, int] = field(default_factory=dict)
    checks: dict[str, routing_pb2.BatchCheck] = field(default_factory=dict)

    async def run(self, address: str) -> None:
        async with open_channel(address) as channel:
            stub = routing_pb2_grpc.RoutingServiceStub(channel)
            async for news in stub.ConnectFrontend(self._requests()):
                if news.snapshot:
                    self.routes, self.snapshots = {}, self.snapshots + 1
                self.routes |= {route.model: route for route in news.routes}
                for name in news.removed:
                    del self.routes[name]

    async def _requests(self) -> AsyncIterator[routing_pb2.ConnectFrontendRequest]:
        info = routing_pb2.FrontendInfo(id=self.frontend_id, address="127.0.0.1:1")
        yield routing_pb2.ConnectFrontendRequest(frontend=info)
        while True:
            await asyncio.sleep(0.25)
            for model, rate in self.rate.items():
                self.offered[model] = self.offered.get(model, 0.0) + rate * 0.25
            yield routing_pb2.ConnectFrontendRequest(
                demands=[
                    routing_pb2.ModelDemand(
                        model=model,
                        offered=round(offered),
                        backlog=self.backlog.get(model, 0),
                        checks=[self.checks[model]] if model in self.checks else [],
                    )
                    for model, offered in (
                        dict.fromkeys((*self.backlog, *self.checks), 0.0) | self.offered
                    ).items()
                ]
            )


@dataclass
class Cluster:
    """A controller with played agents and frontends, and a user's view of it."""

    controller: Controller
    folder: Path
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def join(self, *members: Agent | Frontend) -> None:
        address = self.controller.address
        self.tasks += [asyncio.create_task(member.run(address)) for member in members]

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def upload(self, content: str = "x") -> str:
        folder = self.folder / "model"
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "1" / "model.py").write_text(content)
        packed = self.folder / "packed"
        with packed.open("wb") as file:
            artifact.pack(folder, file)
        digest = artifact.digest_of(packed)
        data = packed.read_bytes()
        piece = control_pb2.UploadArtifactRequest(digest=digest, size_bytes=len(data), chunk=data)
        await self.call("UploadArtifact", iter([piece]))
        return digest

    async def deploy(
        self, name: str = "m", *, content: str = "x", slo_s: float = 0.1, **options: Any
    ) -> types_pb2.Model:
        digest = await self.upload(content)
        spec = types_pb2.ModelSpec(
            name=name,
            artifact_digest=digest,
            slo=types_pb2.Slo(latency=convert.duration(slo_s), share=0.99),
            **{"min_replicas": 1} | options,
        )
        response = await self.call("DeployModel", control_pb2.DeployModelRequest(spec=spec))
        model: types_pb2.Model = response.model
        return model

    async def model(self, name: str = "m") -> types_pb2.Model:
        response = await self.call("GetModel", control_pb2.GetModelRequest(name=name))
        model: types_pb2.Model = response.model
        return model

    async def ready(self, generation: int = 1, name: str = "m") -> types_pb2.Model:
        async def check() -> types_pb2.Model | None:
            model = await self.model(name)
            serves = model.serving.generation == generation
            return model if serves and model.status.phase == types_pb2.MODEL_PHASE_READY else None

        model: types_pb2.Model = await wait_until(check, "the model becomes ready")
        return model

    async def profile(
        self, name: str = "m", *, quick: bool = False
    ) -> list[control_pb2.ProfileModelResponse]:
        request = control_pb2.ProfileModelRequest(name=name, quick=quick)
        async with open_channel(self.controller.address) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            return [it async for it in stub.ProfileModel(request, timeout=LIMIT_S)]

    async def call(self, method: str, request: Any) -> Any:
        async with open_channel(self.controller.address) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            return await getattr(stub, method)(request, timeout=LIMIT_S)


@pytest.fixture
async def cluster(controller: Controller, tmp_path: Path) -> AsyncIterator[Cluster]:
    running = Cluster(controller, tmp_path)
    yield running
    await running.leave()


@pytest.fixture
def until() -> Any:
    """Wait for a condition."""
    return wait_until


@pytest.fixture
def slow() -> Agent:
    return Agent("slow-0", "slow", 0.04, latency_s=0.02)


@pytest.fixture
def fast() -> Agent:
    return Agent("fast-0", "fast", 0.10, latency_s=0.01)


@pytest.fixture
def frontend() -> Frontend:
    return Frontend()
