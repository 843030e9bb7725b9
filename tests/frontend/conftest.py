"""A controller's part played over the wire, real Tritons, and the frontend as a process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from paldia_nodeagent.runtime import Runtime, find_runtime
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc

from paldia.api.convert import duration
from paldia.api.v1 import routing_pb2, routing_pb2_grpc, types_pb2

LIMIT_S = 20.0
MODELS = Path(__file__).parent / "models"
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Condition = Callable[[], Any]


def wait_until(what: str, condition: Condition, limit_s: float = LIMIT_S) -> Any:
    """Wait until `condition()` gives something true and give that."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


class Controller(routing_pb2_grpc.RoutingServiceServicer):
    """Serves RoutingService as the controller does: tells routes, hears demand."""

    def __init__(self) -> None:
        self.routes: dict[str, routing_pb2.ModelRoute] = {}
        self.frontends: list[routing_pb2.FrontendInfo] = []
        self.demands: dict[str, routing_pb2.ModelDemand] = {}
        self.reports = 0
        self._listeners: list[queue.Queue[routing_pb2.ConnectFrontendResponse | None]] = []
        self._lock = threading.Lock()
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Listen; on the same port as before after a `stop`."""
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        self._server.start()

    def stop(self) -> None:
        """End all streams and stop listening."""
        with self._lock:
            for listener in self._listeners:
                listener.put(None)
        self._server.stop(0).wait()

    def ConnectFrontend(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Hold a frontend's stream."""
        first = next(requests)
        assert first.HasField("frontend")
        listener: queue.Queue[routing_pb2.ConnectFrontendResponse | None] = queue.Queue()

        def hear() -> None:
            self.hear(first)
            with contextlib.suppress(grpc.RpcError):
                for request in requests:
                    self.hear(request)
            listener.put(None)

        threading.Thread(target=hear, daemon=True).start()
        with self._lock:
            self.frontends.append(first.frontend)
            self._listeners.append(listener)
            snapshot = routing_pb2.ConnectFrontendResponse(
                snapshot=True, routes=list(self.routes.values())
            )
        yield snapshot
        while (news := listener.get()) is not None:
            yield news
        with self._lock:
            self._listeners.remove(listener)

    def hear(self, request: routing_pb2.ConnectFrontendRequest) -> None:
        self.demands.update((demand.model, demand) for demand in request.demands)
        self.reports += 1

    def tell(self, *routes: routing_pb2.ModelRoute, removed: Sequence[str] = ()) -> None:
        """Change routes and let all frontends know."""
        with self._lock:
            self.routes.update((route.model, route) for route in routes)
            for name in removed:
                self.routes.pop(name, None)
            news = routing_pb2.ConnectFrontendResponse(routes=routes, removed=removed)
            for listener in self._listeners:
                listener.put(news)


class Triton:
    """A Triton process with some of the models."""

    def __init__(self, runtime: Runtime, folder: Path, models: Sequence[str]) -> None:
        self.models = models
        self._folder = folder
        for model in models:
            shutil.copytree(MODELS / model, folder / "models" / model)
        self._mark = f"paldia-test-{os.getpid()}-{folder.name}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(str(runtime.tritonserver), f"--model-repository={folder / 'models'}"),
                    *(f"--backend-directory={runtime.backends}", "--grpc-address=127.0.0.1"),
                    *("--grpc-port=0", "--allow-http=false", "--allow-metrics=false"),
                    *("--exit-timeout-secs=1", "--pinned-memory-pool-byte-size=0"),
                    f"--backend-config=python,shm-region-prefix-name={self._mark}",
                ],
                env=dict(runtime.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(f"Triton serves, see {folder / 'log'}", self._serves)
        except BaseException:
            self.kill()
            raise
        (connection,) = [
            it
            for it in psutil.Process(self.process.pid).net_connections("tcp")
            if it.status == psutil.CONN_LISTEN
        ]
        self.endpoint = f"127.0.0.1:{connection.laddr.port}"

    def _serves(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()[-3000:]
        return "Started GRPCInferenceService" in (self._folder / "log").read_text()

    def stub(self) -> Any:
        """Call it directly."""
        return service_pb2_grpc.GRPCInferenceServiceStub(
            grpc.insecure_channel(self.endpoint, options=ANY_SIZE)
        )

    def kill(self) -> None:
        """End it at once, with its stubs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for path in Path("/dev/shm").glob(f"{self._mark}*"):
            path.unlink(missing_ok=True)

    def route(
        self,
        model: str,
        *others: Triton,
        name: str = "",
        slo_s: float = 5.0,
        latency_s: float = 0.005,
        **fields: Any,
    ) -> routing_pb2.ModelRoute:
        """Make the route to a model on this Triton, and on `others`."""
        config = self.stub().ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
        count = max(1, sum(group.count for group in config.instance_group))
        return routing_pb2.ModelRoute(
            **{
                "model": name or model,
                "generation": 1,
                "state": routing_pb2.ROUTE_STATE_READY,
                "slo": types_pb2.Slo(latency=duration(slo_s), share=0.99),
                "model_config": config.SerializeToString(),
                "lanes": [
                    routing_pb2.Lane(
                        node_id=f"node-{number}",
                        hardware="test",
                        endpoint=triton.endpoint,
                        count=count,
                        batch_size=max(1, config.max_batch_size),
                        points=[types_pb2.LatencyPoint(batch_size=1, latency=duration(latency_s))],
                        slowdown=1.0,
                    )
                    for number, triton in enumerate((self, *others), 1)
                ],
                **fields,
            }
        )


class Frontend:
    """A frontend process."""

    def __init__(self, folder: Path, controller: str, *flags: str) -> None:
        ready = folder / "ready.json"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).with_name("paldia-frontend")),),
                    *("--controller", controller, "--bind", "127.0.0.1:0"),
                    *("--metrics-bind", "127.0.0.1:0", "--ready-file", str(ready), *flags),
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(
                f"the frontend serves, see {self.log}", lambda: self._lives() and ready.exists()
            )
        except BaseException:
            self.process.kill()
            raise
        facts = json.loads(ready.read_text())
        self.address, self.metrics = facts["grpc"], facts["metrics"]
        self.channel = grpc.insecure_channel(self.address, options=ANY_SIZE)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def _lives(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return True

    def is_ready(self) -> bool:
        return bool(self.stub.ServerReady(service_pb2.ServerReadyRequest()).ready)

    def is_model_ready(self, model: str) -> bool:
        return bool(self.stub.ModelReady(service_pb2.ModelReadyRequest(name=model)).ready)

    def await_model(self, model: str) -> None:
        wait_until(f"{model} is ready", lambda: self.is_model_ready(model))

    def metric(self, name: str, **labels: str) -> float:
        """Read one figure it exports; 0 if it has none yet."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=LIMIT_S) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @contextlib.contextmanager
    def busy(self, request: Any) -> Iterator[None]:
        """Have a request run meanwhile: it is on its lane when the body begins."""
        started = self.metric("paldia_batch_rows_count", model=request.model_name)
        call = self.stub.ModelInfer.future(request, timeout=LIMIT_S)
        wait_until(
            "the request runs",
            lambda: self.metric("paldia_batch_rows_count", model=request.model_name) > started,
        )
        yield
        call.result()

    def client(self) -> InferenceServerClient:
        """Connect the stock client."""
        return InferenceServerClient(self.address)

    def stop(self) -> int:
        """Ask it to end and give its exit code."""
        self.process.terminate()
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Give a function that waits for a condition."""
    return wait_until


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return find_runtime(None, tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="session")
def start_triton(
    runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Triton]]:
    """Give a function that starts a Triton with some models."""
    started: list[Triton] = []

    def start(*models: str) -> Triton:
        started.append(Triton(runtime, tmp_path_factory.mktemp("triton"), models))
        return started[-1]

    yield start
    for triton in started:
        triton.kill()


@pytest.fixture(scope="session")
def triton(start_triton: Callable[..., Triton]) -> Triton:
    """Give a Triton with all models that tests share: leave it running."""
    return start_triton(*sorted(path.name for path in MODELS.iterdir()))


@pytest.fixture(scope="session")
def start_controller() -> Iterator[Callable[[], Controller]]:
    started: list[Controller] = []

    def start() -> Controller:
        started.append(Controller())
        return started[-1]

    yield start
    for controller in started:
        controller.stop()


@pytest.fixture(scope="session")
def start_frontend(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Frontend]]:
    """Give a function that starts a frontend for a controller."""
    started: list[Frontend] = []

    def start(controller: Controller | str, *flags: str) -> Frontend:
        folder = tmp_path_factory.mktemp("frontend")
        address = controller if isinstance(controller, str) else controller.address
        frontend = Frontend(folder, address, *flags)
        started.append(frontend)
        if isinstance(controller, Controller):
            wait_until("it has routes", frontend.is_ready)
        return frontend

    yield start
    for frontend in started:
        frontend.kill()


@pytest.fixture(scope="session")
def controller(start_controller: Callable[[], Controller], triton: Triton) -> Controller:
    """Give a controller that tests share, with routes to all models: add to them, leave them."""
    controller = start_controller()
    controller.tell(*(triton.route(model) for model in triton.models))
    # One batch at a time, so that what comes meanwhile queues.
    for model in ("sleeper", "echo", "rowwise"):
        route = triton.route(model, name=f"single-{model}")
        route.lanes[0].count = 1
        controller.tell(route)
    route = triton.route("sleeper", name="narrow-sleeper")
    route.lanes[0].count = route.lanes[0].batch_size = 1
    controller.tell(route)
    return controller


@pytest.fixture(scope="session")
def frontend(start_frontend: Callable[..., Frontend], controller: Controller) -> Frontend:
    """Give a frontend that tests share: leave it running."""
    return start_frontend(controller, "--workers", "2")


@pytest.fixture(scope="session")
def tensor() -> Callable[..., InferInput]:
    """Give a function that makes an input from an array."""

    def make(name: str, array: np.ndarray, datatype: str | None = None) -> InferInput:
        kinds = {"f4": "FP32", "i4": "INT32", "O": "BYTES", "f2": "FP16"}
        kind = datatype or kinds[array.dtype.str.lstrip("<|")]
        made = InferInput(name, list(array.shape), kind)
        made.set_data_from_numpy(array)
        return made

    return make
