"""A whole cluster on this machine, as separate processes: for `paldia up`, demo and tests.

Its folder holds everything: `logs/`, ready files in `run/`, and the data of the
controller, of each node and, with that store, of etcd.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self

from paldia_nodeagent import processes

from paldia.cli.children import Child, Facts, Spawner, end, ready_file
from paldia.cli.etcd import LocalEtcd
from paldia.cli.node_options import NodeOptions, default_nodes
from paldia.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    UnavailableError,
)

StoreKind = Literal["embedded", "etcd"]

_START_TIMEOUT_S = 60.0
_SERVICE_GRACE_S = 10.0
_AGENT_GRACE_S = 25.0
_SERVICES = ("etcd", "controller", "frontend")
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LocalCluster:
    """Starts a cluster, watches its processes and stops them; a context manager.

    Processes are named `etcd`, `controller`, `frontend`, and nodes by their ids. Ports may
    be 0; a process that is restarted keeps the ports it had. `flags` adds command-line
    flags to processes by name, with `nodes` for every node agent.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: Sequence[NodeOptions] | None = None,
        store: StoreKind = "embedded",
        controller_bind: str = "127.0.0.1:0",
        frontend_bind: str = "127.0.0.1:0",
        metrics_bind: str = "127.0.0.1:0",
        flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.nodes = default_nodes() if nodes is None else tuple(nodes)
        self.store = store
        self._flags = flags or {}
        self._binds = {
            "controller": controller_bind,
            "frontend": frontend_bind,
            "metrics": metrics_bind,
        }
        self._etcd: LocalEtcd | None = None
        self._children: dict[str, Child] = {}
        self._spawner = Spawner()
        self._lock: IO[bytes] | None = None
        ids = [node.node_id for node in self.nodes]
        if len({*ids, *_SERVICES}) != len(ids) + len(_SERVICES):
            raise InvalidArgumentError(
                f"node ids must differ from one another and from {', '.join(_SERVICES)}"
            )
        if any(not _NODE_ID.fullmatch(node_id) for node_id in ids):
            raise InvalidArgumentError(
                "a node id names its folder too: letters, digits, '.', '_' and '-' only, and "
                "a letter or digit first"
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def controller_address(self) -> str:
        """Where the controller listens."""
        return self._binds["controller"]

    @property
    def frontend_address(self) -> str:
        """Where the frontend takes inference calls."""
        return self._binds["frontend"]

    @property
    def metrics_address(self) -> str:
        """Where the frontend serves its metrics."""
        return self._binds["metrics"]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the processes, in the order they are started."""
        return tuple(self._children)

    def pid(self, name: str) -> int:
        """Give a process's id."""
        return self._child(name).pid

    def log_path(self, name: str) -> Path:
        """Give a process's log file."""
        return self._child(name).log_path

    def start(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Start everything and wait until it serves; stop it all if that fails.

        Raises:
            UnavailableError: a process ended while starting, for instance because its port
                is taken, or another cluster runs in this folder.
            ExpiredError: a process didn't serve within `timeout_s` seconds.
            NotServableError: a program is missing.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            self._prepare()
            for tier in self._tiers():
                for name in tier:
                    self._launch(name)
                for name in tier:
                    self._await(name, deadline_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, in the reverse order; signals wait until that is done."""
        with _undisturbed():
            if self._lock is None:
                return
            self._spawner.settle()
            for tier in reversed(self._tiers()):
                started = [self._children[name] for name in tier if name in self._children]
                is_nodes = tier == self._tiers()[-1]
                end(started, _AGENT_GRACE_S if is_nodes else _SERVICE_GRACE_S)
                if is_nodes:
                    self._sweep()
            self._spawner.finish()
            self._lock.close()
            self._lock = None

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """Signal a process, and wait for its end if the signal is meant to end it."""
        child = self._child(name)
        child.signal(signum)
        if signum in (signal.SIGKILL, signal.SIGTERM) and child.process is not None:
            child.process.wait(_AGENT_GRACE_S)

    def restart(self, name: str, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Start a process anew, stopping it first if it runs, and wait until it serves."""
        end([self._child(name)], _AGENT_GRACE_S)
        self._launch(name)
        self._await(name, time.monotonic() + timeout_s)

    def check(self) -> None:
        """Make sure that every process runs.

        Raises:
            UnavailableError: one has ended; with its last words and its log's path.
        """
        for child in self._children.values():
            if child.exit_code() is not None:
                raise UnavailableError(f"{child.epitaph()} (log: {child.log_path})")

    def _tiers(self) -> list[tuple[str, ...]]:
        """Name the processes in groups that start together, each needing those before."""
        etcd = [("etcd",)] if self.store == "etcd" else []
        nodes = tuple(node.node_id for node in self.nodes)
        return [*etcd, ("controller",), ("frontend",), nodes]

    def _child(self, name: str) -> Child:
        try:
            return self._children[name]
        except KeyError:
            raise NotFoundError.of("process", name) from None

    def _prepare(self) -> None:
        for part in ("logs", "run"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "cluster.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UnavailableError(
                f"another cluster runs in {self.directory}; stop it, or choose another folder"
            ) from error
        self._lock, self._spawner = lock, Spawner()
        if self.store == "etcd":
            self._etcd = LocalEtcd(self.directory / "etcd")

    def _launch(self, name: str) -> None:
        ready = self.directory / "run" / f"{name}.json"
        ready.unlink(missing_ok=True)
        log_path = self.directory / "logs" / f"{name}.log"
        if name == "etcd" and self._etcd is not None:
            child = Child(name, self._etcd.command(), log_path, self._etcd.probe)
        else:
            command = [*self._command(name), "--ready-file", str(ready)]
            child = Child(name, command, log_path, ready_file(ready))
        self._children[name] = child
        self._spawner.start(child)

    def _await(self, name: str, deadline_s: float) -> Facts:
        facts = self._child(name).wait_ready(deadline_s)
        if name in self._binds:
            self._binds[name] = facts["grpc"]
            self._binds["metrics"] = facts.get("metrics", self._binds["metrics"])
        return facts

    def _command(self, name: str) -> list[str]:
        extra = self._flags.get(name, ())
        if name == "controller":
            store = ["--store", self.store]
            if self._etcd is not None:
                store += ["--etcd-endpoints", self._etcd.endpoint]
            return [
                _program("paldia-controller"),
                *("--bind", self._binds["controller"], *store),
                *("--data-dir", str(self.directory / "controller"), *extra),
            ]
        if name == "frontend":
            return [
                _program("paldia-frontend"),
                *("--controller", self.controller_address),
                *("--bind", self._binds["frontend"]),
                *("--metrics-bind", self._binds["metrics"]),
                # Machine and cores are shared with the nodes' Tritons, and one takes thousands of
                # requests a second.
                *(() if "--workers" in extra else ("--workers", "1")),
                *extra,
            ]
        node = next(node for node in self.nodes if node.node_id == name)
        return [
            _program("paldia-nodeagent"),
            *("--controller", self.controller_address),
            *("--node-id", node.node_id, "--hardware", node.hardware),
            *("--price-usd-per-hour", str(node.price_usd_per_hour)),
            *("--data-dir", str(self._node_folder(node))),
            *(("--device", node.device) if node.device != "auto" else ()),
            *(("--cores", ",".join(map(str, node.cores))) if node.cores else ()),
            *(("--slowdown", str(node.slowdown)) if node.slowdown != 1 else ()),
            *self._flags.get("nodes", ()),
            *extra,
        ]

    def _node_folder(self, node: NodeOptions) -> Path:
        return self.directory / "nodes" / node.node_id

    def _sweep(self) -> None:
        """End the Tritons that killed agents left: they carry the agent's token."""
        for node in self.nodes:
            with contextlib.suppress(FileNotFoundError):
                token = (self._node_folder(node) / "identity").read_text().strip()
                mark = f"paldia-{token}-"
                processes.kill_marked(mark)
                processes.remove_shared_memory(mark)


def _program(name: str) -> str:
    """Find a console script: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name(name)
    if beside.is_file():
        return str(beside)
    if found := shutil.which(name):
        return found
    raise NotServableError(f"the program {name} isn't installed; run: pip install paldia")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore the signals that would interrupt; only the main thread can, or needs to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {
        signum: signal.signal(signum, signal.SIG_IGN)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            # None stands for a handler that Python didn't set.
            signal.signal(signum, handler or signal.SIG_DFL)
