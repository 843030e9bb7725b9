"""The processes of a contender: started together, waited for, and gone at the end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.processes import tree
from paldia.cli.children import Child, Facts, Spawner, end, ready_file

START_LIMIT_S = 120.0
_GRACE_S = 15.0
_CALL_LIMIT_S = 2.0


class Children:
    """Starts processes; all that they leave is ended with them."""

    def __init__(self, folder: Path) -> None:
        """Keep logs and ready files in `folder`."""
        self._folder = folder
        self._spawner = Spawner()
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], address: str, model: str) -> Child:
        """Start a server that serves a model at an address."""
        return self._start(Child(name, command, self._log(name), _answers(address, model)))

    def start_told(self, name: str, command: Sequence[str]) -> Child:
        """Start a program that writes a ready file, `--ready-file` being its last option."""
        ready = self._folder / f"{name}.json"
        ready.unlink(missing_ok=True)
        told = [*command, "--ready-file", str(ready)]
        return self._start(Child(name, told, self._log(name), ready_file(ready)))

    def end(self) -> None:
        """End them all, the last one first, and what they started."""
        left: list[psutil.Process] = []
        for child in reversed(self._children):
            left += tree(child.pid)
            end([child], _GRACE_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._spawner.finish()

    def _start(self, child: Child) -> Child:
        self._children.append(child)
        self._spawner.start(child)
        return child

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextlib.contextmanager
def children(folder: Path) -> Iterator[Children]:
    """Give what starts processes, and end them after."""
    folder.mkdir(parents=True, exist_ok=True)
    started = Children(folder)
    try:
        yield started
    finally:
        started.end()


def free_address() -> str:
    """Give an address of this machine at which nobody listens now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"


def _answers(address: str, model: str) -> object:
    """Give a probe: whether a server says that it serves a model."""

    def probe() -> Facts | None:
        with grpc.insecure_channel(address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                told = stub.ModelReady(
                    service_pb2.ModelReadyRequest(name=model), timeout=_CALL_LIMIT_S
                )
            except grpc.RpcError:
                return None
            return {"grpc": address} if told.ready else None

    return probe
