"""A controller's part played over the wire, agents as processes, and small models."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from paldia.api import artifact, convert
from paldia.api.v1 import agent_pb2, agent_pb2_grpc
from paldia.api.v1 import types_pb2 as pb
from tests.nodeagent.mps.install import StandIn, installed
from tests.nodeagent.nvml.machine import compile_nvml

Condition = Callable[[], Any]


def poll_until(what: str, condition: Condition, limit_s: float = 30.0) -> Any:
    """Wait until `condition()` gives something true and give that."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


class Controller(agent_pb2_grpc.AgentServiceServicer):
    """Serves AgentService as the controller does: wants things of one node, hears its reports."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.node: agent_pb2.NodeInfo | None = None
        self.report = agent_pb2.NodeReport()
        self.reports = 0
        self.reasons: defaultdict[str, str] = defaultdict(str)
        """All reasons heard, by model, one a line."""
        self.hellos = 0
        self.fetched: list[str] = []
        self.artifacts: dict[str, bytes] = {}
        self.stuck: set[str] = set()
        """Artifacts of which only the beginning is sent for now."""
        self._wanted: dict[tuple[str, str], agent_pb2.DesiredDeployment] = {}
        self._tasks: dict[str, agent_pb2.ProfileTask] = {}
        self._changed = threading.Condition()
        self._version = 0
        self._silent = False
        self._server = grpc.server(ThreadPoolExecutor(16))
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        self._server.start()

    def close(self) -> None:
        with self._changed:
            self._silent = True
            self._changed.notify_all()
        self._server.stop(0).wait()

    # What the agent calls.

    def ConnectAgent(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        first = next(request_iterator)
        assert first.HasField("node"), "the first message says who the node is"
        self.node = first.node
        self.hellos += 1
        threading.Thread(target=self._listen, args=(request_iterator,), daemon=True).start()
        seen = -1
        while context.is_active() and not self._silent:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._version != seen, timeout=0.2)
                if self._version == seen:
                    continue
                seen = self._version
                response = agent_pb2.ConnectAgentResponse(profile_tasks=[*self._tasks.values()])
                response.deployments.extend(self._wanted.values())
            yield response

    def _listen(self, requests: Any) -> None:
        with contextlib.suppress(grpc.RpcError, Exception):
            for request in requests:
                if request.HasField("node"):
                    self.node = request.node
                self.report = request.report
                self.reports += 1
                for item in request.report.deployments:
                    if item.reason not in self.reasons[item.model]:
                        self.reasons[item.model] += f"{item.reason}\n"

    def FetchArtifact(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.fetched.append(request.digest)
        packed = self.artifacts.get(request.digest)
        if packed is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no artifact named {request.digest!r}")
        for start in range(0, len(packed), 1024):
            yield agent_pb2.FetchArtifactResponse(chunk=packed[start : start + 1024])
            while request.digest in self.stuck and context.is_active():
                time.sleep(0.02)

    # What tests call.

    def publish(self, folder: Path) -> str:
        packed = io.BytesIO()
        artifact.pack(folder, packed)
        path = folder.with_name(folder.name + ".tar")
        path.write_bytes(packed.getvalue())
        digest = artifact.digest_of(path)
        self.artifacts[digest] = packed.getvalue()
        return digest

    def want(self, model: str, digest: str, lanes: int = 1, sm_percent: int = 0) -> None:
        with self._changed:
            if lanes:
                self._wanted[model, digest] = agent_pb2.DesiredDeployment(
                    model=model, artifact_digest=digest, lanes=lanes, sm_percent=sm_percent
                )
            else:
                self._wanted.pop((model, digest), None)
            self._version += 1
            self._changed.notify_all()

    def ask_profile(self, task_id: str, model: str, digest: str, **limits: float) -> None:
        task = agent_pb2.ProfileTask(
            task_id=task_id,
            model=model,
            artifact_digest=digest,
            max_batch_size=int(limits.get("max_batch_size", 0)),
            budget=convert.duration(limits.get("budget_s", 1.0)),
            latency_cap=convert.duration(limits.get("latency_cap_s", 0.0)),
            full=bool(limits.get("full", False)),
            patience=convert.duration(limits.get("patience_s", 5.0)),
        )
        with self._changed:
            self._tasks[task_id] = task
            self._version += 1
            self._changed.notify_all()

    def withdraw_profile(self, task_id: str) -> None:
        with self._changed:
            del self._tasks[task_id]
            self._version += 1
            self._changed.notify_all()

    def status(self, model: str) -> agent_pb2.DeploymentStatus | None:
        return next((item for item in self.report.deployments if item.model == model), None)

    def wait_status(
        self, model: str, state: pb.PlacementState.ValueType, limit_s: float = 40.0
    ) -> agent_pb2.DeploymentStatus:
        def reached() -> agent_pb2.DeploymentStatus | None:
            status = self.status(model)
            return status if status is not None and status.state == state else None

        try:
            found: agent_pb2.DeploymentStatus = poll_until("", reached, limit_s)
        except AssertionError:
            raise AssertionError(
                f"{model} isn't {pb.PlacementState.Name(state)} but {self.status(model)}"
            ) from None
        return found

    def wait_gone(self, model: str, limit_s: float = 30.0) -> None:
        poll_until(f"{model} is gone", lambda: self.status(model) is None, limit_s)

    def wait_profile(self, task_id: str, limit_s: float = 60.0) -> agent_pb2.ProfileResult:
        found: agent_pb2.ProfileResult = poll_until(
            f"result of {task_id}",
            lambda: next((r for r in self.report.profile_results if r.task_id == task_id), None),
            limit_s,
        )
        return found


@dataclass
class Agent:
    """A node agent's process."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path
    asked: bool = False

    @property
    def records(self) -> list[dict[str, Any]]:
        """What it has on disk about its Tritons."""
        found = []
        for path in (self.data_dir / "runs").glob("*/process.json"):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return found

    def triton_of(self, model: str) -> psutil.Process:
        """Give the process that serves a model."""
        record = next(r for r in self.records if r["model"] == model and r["purpose"] == "serve")
        return psutil.Process(record["pid"])

    @staticmethod
    def runs(pid: int) -> bool:
        """Whether a process lives; one that nobody asked after yet doesn't."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        return False

    def leftovers(self) -> list[str]:
        """List processes and shared memory that carry this agent's mark."""
        mark = f"paldia-{(self.data_dir / 'identity').read_text()}-"
        found = [path.name for path in Path("/dev/shm").glob(f"{mark}*")]
        for process in psutil.process_iter(["cmdline"]):
            if any(mark in argument for argument in process.info["cmdline"] or []):
                found.append(str(process.pid))
        return found

    def kill_leftovers(self) -> None:
        """Kill what an agent that was killed left running."""
        for name in self.leftovers():
            if name.isdigit():
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(int(name)).kill()

    def kill(self) -> None:
        """Kill the agent alone; its Tritons live on."""
        self.process.kill()
        self.process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, but once: a second one means at once, leaving its Tritons."""
        if not self.asked and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.asked = True

    def stop(self) -> int:
        """End the agent in order and give its exit code."""
        self.ask_to_stop()
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


StartAgent = Callable[..., Agent]


def run_agent(
    controller: Controller, data_dir: Path, *flags: str, environment: dict[str, str] | None = None
) -> Agent:
    """Start an agent and wait until it has announced that it is ready."""
    data_dir.mkdir(parents=True, exist_ok=True)
    ready = data_dir.parent / f"{data_dir.name}.ready"
    ready.unlink(missing_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "paldia_nodeagent.main"),
                *("--controller", controller.address, "--node-id", data_dir.name),
                *("--hardware", "test-kind", "--price-usd-per-hour", "0.5"),
                *("--data-dir", str(data_dir), "--ready-file", str(ready), "--drain-s", "0.2"),
                *flags,
            ],
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )

    def announced() -> bool:
        assert process.poll() is None, log.read_text()
        return ready.is_file()

    poll_until(f"the agent is ready ({log})", announced)
    return Agent(process, data_dir, log)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name: sockets are made in it, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="paldia-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def build_nvml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles an NVML, once for each set of flags."""
    built: dict[tuple[str, ...], Path] = {}

    def build(*flags: str) -> Path:
        if flags not in built:
            built[flags] = compile_nvml(tmp_path_factory.mktemp("nvml"), *flags)
        return built[flags]

    return build


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in for MPS, with nothing of it running yet."""
    with installed(tmp_path / "standin") as one:
        yield one


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Waits on a condition with a deadline."""
    return poll_until


@pytest.fixture(scope="session")
def start_agent() -> StartAgent:
    """Starts an agent: controller, data folder, flags."""
    return run_agent


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    """A controller of one module's tests."""
    controller = Controller()
    yield controller
    controller.close()


@pytest.fixture
def lone_controller() -> Iterator[Controller]:
    """A controller of one test."""
    controller = Controller()
    yield controller
    controller.close()


@pytest.fixture
def make_controller() -> Iterator[Callable[..., Controller]]:
    """Starts controllers, at a given address if need be."""
    controllers: list[Controller] = []

    def make(address: str = "127.0.0.1:0") -> Controller:
        controllers.append(Controller(address))
        return controllers[-1]

    yield make
    for controller in controllers:
        controller.close()


@pytest.fixture
def launch_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents that end with the test, with all they left."""
    agents: list[Agent] = []

    def start(controller: Controller, name: str, *flags: str, **more: Any) -> Agent:
        agents.append(run_agent(controller, tmp_path / name, *flags, **more))
        return agents[-1]

    yield start
    for agent in agents:
        agent.ask_to_stop()
    for agent in agents:
        agent.stop()
    left = [name for agent in agents for name in agent.leftovers()]
    for agent in agents:
        agent.kill_leftovers()
    assert not left


_DOUBLER_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
"""

_DOUBLER = """
import time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            BODY
            answers.append(pb.InferenceResponse([pb.Tensor("y", x * 2)]))
        return answers
"""


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model folder: a doubler, unless told otherwise. `config` None leaves it out."""

    def make(
        name: str,
        config: str | None = _DOUBLER_CONFIG,
        code: str | None = None,
        body: str = "pass",
        weights: bytes | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        (folder / "1").mkdir(parents=True)
        if config is not None:
            (folder / "config.pbtxt").write_text(config)
        (folder / "1" / "model.py").write_text(
            _DOUBLER.replace("BODY", body) if code is None else code
        )
        if weights is not None:
            (folder / "1" / "model.py").unlink()
            (folder / "1" / "weights.dat").write_bytes(weights)
        return folder

    return make
