"""A real controller, and nodes that follow a script where Triton would take seconds."""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from paldia.api.convert import duration
from paldia.api.v1 import agent_pb2, agent_pb2_grpc, types_pb2
from paldia.cli.children import Child, Spawner, end, ready_file
from paldia.client import Client

LIMIT_S = 20.0


class Controller:
    """A controller process that can be restarted on its port."""

    def __init__(self, folder: Path) -> None:
        self._spawner = Spawner()
        self._folder = folder
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [
            *(str(Path(sys.executable).with_name("paldia-controller")), "--bind", self.address),
            *("--data-dir", str(self._folder / "data"), "--ready-file", str(ready)),
            *("--tick-s", "0.1"),
        ]
        self.child = Child("controller", command, self._folder / "log", ready_file(ready))
        self._spawner.start(self.child)
        self.address = self.child.wait_ready(time.monotonic() + LIMIT_S)["grpc"]

    def stop(self) -> None:
        end([self.child], LIMIT_S)

    def kill(self) -> None:
        self.child.signal(signal.SIGKILL)
        end([self.child], LIMIT_S)

    def close(self) -> None:
        self.stop()
        self._spawner.finish()


class ScriptedNode:
    """Speaks an agent's protocol: loads at once, and measures what `measure` says.

    While `patient` is cleared it measures nothing.
    """

    def __init__(self, address: str) -> None:
        self.failure = ""
        self.patient = threading.Event()
        self.patient.set()
        self._desired = agent_pb2.ConnectAgentResponse()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(
            address, [("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0)]
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._wake.put(False)
        self._channel.close()
        self._thread.join(LIMIT_S)

    def hold(self) -> None:
        self.patient.clear()

    def release(self) -> None:
        self.patient.set()
        self._wake.put(True)

    def _run(self) -> None:
        stub = agent_pb2_grpc.AgentServiceStub(self._channel)
        while not self._over.is_set():
            try:
                for desired in stub.ConnectAgent(self._requests(), wait_for_ready=True):
                    self._desired = desired
                    self._wake.put(True)
            except (grpc.RpcError, ValueError):
                self._over.wait(0.1)

    def _requests(self) -> Iterator[agent_pb2.ConnectAgentRequest]:
        hardware = types_pb2.Hardware(
            name="scripted", price_usd_per_hour=0.1, memory_bytes=1 << 30, cores=1
        )
        info = agent_pb2.NodeInfo(node_id="n1", hardware=hardware)
        yield agent_pb2.ConnectAgentRequest(node=info, report=self._report())
        while not self._over.is_set():
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=0.5)
            yield agent_pb2.ConnectAgentRequest(report=self._report())

    def _report(self) -> agent_pb2.NodeReport:
        desired = self._desired
        tasks = desired.profile_tasks if self.patient.is_set() else ()
        return agent_pb2.NodeReport(
            deployments=[
                agent_pb2.DeploymentStatus(
                    model=wanted.model,
                    artifact_digest=wanted.artifact_digest,
                    state=types_pb2.PLACEMENT_STATE_READY,
                    endpoint="127.0.0.1:1",
                    lanes=wanted.lanes,
                )
                for wanted in desired.deployments
            ],
            profile_results=[
                agent_pb2.ProfileResult(task_id=task.task_id, profile=self._profile(task))
                for task in tasks
            ],
        )

    def _profile(self, task: agent_pb2.ProfileTask) -> types_pb2.Profile:
        profile = types_pb2.Profile(
            artifact_digest=task.artifact_digest,
            hardware="scripted",
            node_id="n1",
            provenance=types_pb2.PROVENANCE_MEASURED,
            failure=self.failure,
        )
        if not self.failure:
            points = [types_pb2.LatencyPoint(batch_size=1, latency=duration(0.01), samples=10)]
            profile.points.extend(points)
            profile.load.CopyFrom(duration(0.5))
            profile.memory_bytes = 1 << 20
            profile.demand.add(batch_size=1, share=1.0)
        return profile


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    started = Controller(tmp_path_factory.mktemp("controller"))
    yield started
    started.close()


@pytest.fixture
def client(controller: Controller) -> Iterator[Client]:
    """Give a client of an empty controller."""
    with Client(controller.address) as client:
        yield client
        for model in client.models():
            client.undeploy(model.name)


@pytest.fixture
def node(controller: Controller, client: Client) -> Iterator[ScriptedNode]:
    scripted = ScriptedNode(controller.address)
    yield scripted
    scripted.close()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that makes a model folder; no other test has one with its checksum."""

    def make(name: str = "doubler", text: str = "first") -> Path:
        version = tmp_path / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.py").write_text(f"# {tmp_path} {text}\n")
        return version.parent

    return make
