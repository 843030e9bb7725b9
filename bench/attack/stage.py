"""A frontend to attack, a controller that knows one model, and what stands in for a Triton.

The model gives its input back after two milliseconds, as a real one of little work would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import grpc
import psutil
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from paldia.api.convert import duration
from paldia.api.v1 import routing_pb2, routing_pb2_grpc, types_pb2

MODEL, BULK = "identity", "bulk"
"""The one that others ask, and a second one, so that large requests don't queue before theirs."""
WORK_S = 0.002
START_LIMIT_S = 20.0
SAMPLE_S = 0.05
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True, slots=True)
class Stage:
    """A frontend that serves.

    Attributes:
        process: the frontend, with its workers as children.
        log: what it has written.
    """

    address: str
    process: psutil.Process
    log: Path

    def workers(self) -> set[int]:
        """Its processes."""
        return {self.process.pid, *(it.pid for it in self.process.children(recursive=True))}


def _route(model: str, endpoint: str) -> routing_pb2.ModelRoute:
    config = model_config_pb2.ModelConfig(name=model, backend="python", max_batch_size=8)
    tensor = {"data_type": model_config_pb2.TYPE_UINT8, "dims": [-1]}
    config.input.add(name="X", **tensor)
    config.output.add(name="Y", **tensor)
    lane = routing_pb2.Lane(
        node_id="node",
        endpoint=endpoint,
        count=4,
        batch_size=8,
        points=[types_pb2.LatencyPoint(batch_size=1, latency=duration(WORK_S))],
        slowdown=1.0,
    )
    return routing_pb2.ModelRoute(
        model=model,
        generation=1,
        state=routing_pb2.ROUTE_STATE_READY,
        slo=types_pb2.Slo(latency=duration(5.0), share=0.99),
        model_config=config.SerializeToString(),
        lanes=[lane],
    )


class _Controller(routing_pb2_grpc.RoutingServiceServicer):
    """Tells its routes, and then nothing."""

    def __init__(self, endpoint: str) -> None:
        self._routes = [_route(model, endpoint) for model in (MODEL, BULK)]
        self._over = threading.Event()

    def ConnectFrontend(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Hold a frontend's stream."""
        threading.Thread(target=_drain, args=(requests,), daemon=True).start()
        yield routing_pb2.ConnectFrontendResponse(snapshot=True, routes=self._routes)
        self._over.wait()

    def end(self) -> None:
        """End all streams."""
        self._over.set()


def _drain(requests: Any) -> None:
    with contextlib.suppress(grpc.RpcError):
        for _ in requests:
            pass


@contextlib.contextmanager
def stage(*flags: str) -> Iterator[Stage]:
    """Start all of it; stop it in the end."""
    context = multiprocessing.get_context("spawn")
    told: Queue[str] = context.Queue()
    triton = context.Process(target=_stand_in, args=(told,), daemon=True)
    triton.start()
    controller = _Controller(told.get(timeout=START_LIMIT_S))
    server = grpc.server(ThreadPoolExecutor(8))
    routing_pb2_grpc.add_RoutingServiceServicer_to_server(controller, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="paldia-attack-") as folder:
            frontend = _frontend(Path(folder), f"127.0.0.1:{port}", flags)
            try:
                yield frontend
            finally:
                frontend.process.terminate()
                with contextlib.suppress(psutil.TimeoutExpired):
                    frontend.process.wait(START_LIMIT_S)
    finally:
        controller.end()
        server.stop(0).wait()
        triton.kill()


def _frontend(folder: Path, controller: str, flags: tuple[str, ...]) -> Stage:
    ready, log = folder / "ready.json", folder / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("paldia-frontend")),),
                *("--controller", controller, "--bind", "127.0.0.1:0"),
                *("--metrics-bind", "127.0.0.1:0", "--ready-file", str(ready), *flags),
            ],
            stdout=written,
            stderr=written,
        )
    until_s = time.monotonic() + START_LIMIT_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"the frontend did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    address = json.loads(ready.read_text())["grpc"]
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while not stub.ModelReady(service_pb2.ModelReadyRequest(name=MODEL)).ready:
            if time.monotonic() > until_s:
                raise RuntimeError("the frontend heard of no model")
            time.sleep(0.05)
    return Stage(address, psutil.Process(process.pid), log)


def _stand_in(told: Queue[str]) -> None:
    asyncio.run(_serve(told))


async def _serve(told: Queue[str]) -> None:
    server = grpc.aio.server(options=ANY_SIZE)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Identity(), server)
    told.put(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    await server.wait_for_termination()


class _Identity(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        await asyncio.sleep(WORK_S)
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        answer.outputs.add(name="Y", datatype="UINT8", shape=request.inputs[0].shape)
        answer.raw_output_contents.extend(request.raw_input_contents)
        return answer


class Memory:
    """The most memory that a frontend's processes had together, looked at again and again."""

    def __init__(self, frontend: Stage) -> None:
        self.peak_bytes = 0
        self._frontend = frontend
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now_bytes(self) -> int:
        """What they have now."""
        total = 0
        for pid in self._frontend.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += psutil.Process(pid).memory_info().rss
        return total

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self.now_bytes())
