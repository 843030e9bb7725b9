"""What the workers of a frontend share: the port, a folder for their sockets, and metrics."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import prometheus_client
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector

from paldia.core.errors import UnavailableError
from paldia.kit.rpc import UNIX, check_bind

_PREFIX = "paldia-frontend-"
# A Unix socket's path holds 107 bytes; folder and socket take 45 of them.
_BASE_MOST = 62
_SHORT_BASE = Path("/tmp")  # noqa: S108 - for folders of our own, made for nobody else to enter


class Workplace:
    """Shared things of the workers.

    Attributes:
        address: where clients find them, with the real port.
        folder: for sockets; nobody else may enter it.
        metrics_folder: where workers keep their metrics' values.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self.metrics_folder = folder / "metrics"
        self.metrics_folder.mkdir()
        self.metrics = CollectorRegistry()
        MultiProcessCollector(self.metrics, path=str(self.metrics_folder))  # type: ignore[no-untyped-call]
        self._deaths = Counter(
            "paldia_worker_deaths", "Workers that ended by themselves.", registry=self.metrics
        )

    @classmethod
    @contextmanager
    def opened(cls, bind: str, *, insecure: bool) -> Iterator[Self]:
        """Hold a port and a folder while the body runs.

        Raises:
            InvalidArgumentError: the address is malformed, or not loopback.
            UnavailableError: the port is taken.
        """
        with _held(bind, insecure=insecure) as address:
            _sweep()
            name = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_base())
            try:
                yield cls(address, Path(name))
            finally:
                shutil.rmtree(name, ignore_errors=True)

    @property
    def relay_address(self) -> str:
        """Where the workers find their supervisor."""
        return f"{UNIX}{self.folder / 'relay.sock'}"

    def count_death(self) -> None:
        """Count a worker that ended by itself."""
        self._deaths.inc()

    def clear(self, slot: int) -> None:
        """Take away what a worker that is gone says of the present."""
        for path in self.metrics_folder.glob(f"gauge_live*_{slot}.db"):
            path.unlink(missing_ok=True)

    @contextmanager
    def serving_metrics(self, bind: str, *, insecure: bool) -> Iterator[str]:
        """Serve all workers' metrics over HTTP as one while the body runs; give the address.

        Raises:
            UnavailableError: the port is taken.
        """
        host = check_bind(bind, insecure=insecure).strip("[]")
        port = int(bind.rpartition(":")[2])
        try:
            server, _ = prometheus_client.start_http_server(port, addr=host, registry=self.metrics)
        except OSError as error:
            raise UnavailableError(
                f"can't serve metrics on {host}:{port}: {error.strerror}; "
                "choose another address with --metrics-bind"
            ) from error
        try:
            yield f"{host}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


@contextmanager
def _held(bind: str, *, insecure: bool) -> Iterator[str]:
    """Hold a port for workers to share, and don't listen on it; give the address.

    Workers could share the port of a frontend that runs already: the first try tells.
    """
    host = check_bind(bind, insecure=insecure)
    port = int(bind.rpartition(":")[2])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as held:
        try:
            info = socket.getaddrinfo(host.strip("[]"), port, family, socket.SOCK_STREAM)[0]
            if port:
                with socket.socket(family) as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    trial.bind(info[4])
                    trial.listen()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(info[4])
        except OSError as error:
            raise UnavailableError(
                f"can't listen on {bind}: the port is taken or not permitted; choose another with "
                f"--bind, or stop the process that has it (ss -ltnp 'sport = :{port}')"
            ) from error
        yield f"{host}:{held.getsockname()[1]}"


def _base() -> Path:
    """Give a folder for temporary ones whose sockets' paths aren't too long."""
    usual = Path(tempfile.gettempdir())
    return usual if len(os.fsencode(usual)) <= _BASE_MOST else _SHORT_BASE


def _sweep() -> None:
    """Remove the folders of frontends that were killed."""
    for folder in _base().glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
