"""The emulator's process, through its socket, and the agent's hold on it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from paldia_nodeagent.devices.emulated import EmulatedGpu
from paldia_nodeagent.emulator import wire
from paldia_nodeagent.emulator.figures import machine_of

from paldia.catalog import workloads
from paldia.core.errors import InvalidArgumentError, UnavailableError

GIB = 1 << 30
PROFILE = dataclasses.replace(workloads()["bert"].profiles["p3.2xlarge"], memory_bytes=10 * GIB)


class Instance:
    """An instance of a model, as its Python stub speaks."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(wire.address(name))
        self._lines = self.socket.makefile("rb")

    def say(self, message: Any) -> dict[str, Any]:
        self.send(message)
        return self.hear()

    def send(self, message: Any) -> None:
        self.socket.sendall(message if isinstance(message, bytes) else wire.encode(message))

    def hear(self) -> dict[str, Any]:
        return wire.decode(self._lines.readline())

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def enter(self, pid: int = 1, model: str = "m") -> dict[str, Any]:
        told = {"pid": pid, "model": model, "sm_percent": 100}
        return self.say({"enter": {**told, "profile": wire.profile_to_json(PROFILE)}})


@pytest.fixture
def name() -> str:
    return f"paldia-test-{secrets.token_hex(6)}"


@pytest.fixture
def emulator(name: str, wait_until: Callable[..., Any]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "paldia_nodeagent.emulator.server", "--socket", name),
            *("--hardware", "p3.2xlarge", "--memory-bytes", str(16 * GIB), "--idle-watts", "50"),
            *("--rated-watts", "300", "--speed", "20", "--alone-limit-s", "2"),
        ]
    )

    def listens() -> bool:
        try:
            Instance(name).close()
        except OSError:
            return False
        return True

    wait_until("it listens", listens)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def use(emulator: subprocess.Popen[bytes], name: str) -> Iterator[Callable[[], Instance]]:
    instances: list[Instance] = []

    def connect() -> Instance:
        instances.append(Instance(name))
        return instances[-1]

    yield connect
    for instance in instances:
        instance.close()


def test_batches_run_and_are_metered(use: Callable[[], Instance]) -> None:
    first, second, meter = use(), use(), use()
    assert first.enter(1) == second.enter(1) == {}
    for _ in range(3):
        first.send({"run": 8, "early_s": 0.0})
        second.send({"run": 4, "early_s": 0.001})
        assert first.hear() == second.hear() == {}
    read = meter.say({"read": True})
    assert read["memory_bytes"] == {"1": 10 * GIB}
    # Three batches at 20 times the speed, each of less than the whole device.
    assert read["busy_s"] >= 3 * PROFILE.latency_s(8) * PROFILE.demand_fraction(8) / 20
    assert read["joules"] > 50 * read["busy_s"]


def test_memory_is_refused_until_somebody_leaves(
    use: Callable[[], Instance], wait_until: Callable[..., Any]
) -> None:
    first, second = use(), use()
    assert first.enter(1, "first") == {}
    refused = second.enter(2, "second")["error"]
    assert refused.startswith("CUDA out of memory: second needs 10.00 GiB, and 6.00 GiB")
    assert "in use by first 10.00 GiB" in refused
    # Gone in the middle of a batch that would take long.
    first.send({"run": 1 << 20, "early_s": 0.0})
    first.socket.shutdown(socket.SHUT_RDWR)
    wait_until("there is room", lambda: second.enter(2, "second") == {})
    assert second.say({"run": 1, "early_s": 0.0}) == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        ({}, "expected enter, run or read"),
        ({"run": "many", "early_s": 0.0}, "expected enter, run or read"),
        ({"run": 1, "early_s": 0.0}, "isn't on the card"),
        ({"enter": {}}, "not a process's figures"),
        ({"enter": {"pid": 1, "model": "m", "sm_percent": 100, "profile": {}}}, "figures"),
    ],
)
def test_nonsense_is_answered_with_what_is_wrong(
    use: Callable[[], Instance], message: Any, reason: str
) -> None:
    client = use()
    assert reason in client.say(message)["error"]
    assert client.enter() == {}


def test_a_line_without_end_ends_the_connection(use: Callable[[], Instance]) -> None:
    talker, other = use(), use()
    with pytest.raises(OSError):
        talker.send(b"x" * (4 << 20))
    assert other.enter() == {}


def test_one_that_is_left_alone_ends(
    emulator: subprocess.Popen[bytes], wait_until: Callable[..., Any]
) -> None:
    assert wait_until("it ends", lambda: emulator.poll() is not None)
    assert emulator.returncode == 0


def gpu(name: str, tmp_path: Path, kind: str = "p3.2xlarge", speed: float = 1.0) -> EmulatedGpu:
    return EmulatedGpu(machine_of(kind), name=name, log=tmp_path / "emulator.log", speed=speed)


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return found


def pids_of(name: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if name in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE
    ]


async def test_it_reports_as_a_real_card_does(name: str, tmp_path: Path) -> None:
    card = gpu(name, tmp_path)
    await card.start()
    watch = asyncio.create_task(card.keep_up())
    try:
        (told,) = card.describe()
        assert (told.name, told.memory_bytes) == ("V100 (emulated)", 16 * GIB)
        assert card.sm_shares
        assert "emulated" in card.warnings()[0]
        model = Instance(name)
        assert model.enter(7) == {}
        await until(lambda: card.utilisation()[0].memory_used_bytes)
        (idle,) = card.utilisation()
        assert idle.memory_used_bytes == card.memory_used_bytes(7) == 10 * GIB
        assert card.memory_used_bytes(8) is None
        await until(lambda: card.utilisation()[0].HasField("sm"))
        assert card.utilisation()[0].power_watts == pytest.approx(53.5)
        model.send({"run": 1 << 20, "early_s": 0.0})
        await until(lambda: card.utilisation()[0].sm > 0.8)
        assert card.utilisation()[0].power_watts > 100
        model.close()
        await until(lambda: card.utilisation()[0].memory_used_bytes == 0)
    finally:
        watch.cancel()
        await card.stop()
    assert pids_of(name) == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_that_dies_or_hangs_is_replaced(name: str, tmp_path: Path, signum: int) -> None:
    card = gpu(name, tmp_path)
    await card.start()
    watch = asyncio.create_task(card.keep_up())
    try:
        (pid,) = pids_of(name)
        os.kill(pid, signum)
        await until(lambda: pids_of(name) not in ([], [pid]))
        await until(lambda: card.utilisation()[0].HasField("memory_used_bytes"))
        assert pid not in pids_of(name)
    finally:
        watch.cancel()
        await card.stop()
    assert pids_of(name) == []


async def test_the_next_agent_adopts_it_unless_it_is_of_another_kind(
    name: str, tmp_path: Path
) -> None:
    before = gpu(name, tmp_path)
    await before.start()
    (pid,) = pids_of(name)
    adopting = gpu(name, tmp_path)
    await adopting.start()
    assert pids_of(name) == [pid]
    other = gpu(name, tmp_path, "g4dn.xlarge")
    await other.start()
    assert pids_of(name) not in ([], [pid])
    slower = gpu(name, tmp_path, "g4dn.xlarge", speed=0.5)
    await slower.start()
    (slow,) = pids_of(name)
    assert slow != pid
    await slower.stop()
    assert pids_of(name) == []


async def test_one_that_does_not_start_says_why(name: str, tmp_path: Path) -> None:
    # Somebody else's socket, which answers nothing.
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(wire.address(name))
        with pytest.raises(UnavailableError, match=r"can't listen as .*in use"):
            await gpu(name, tmp_path).start()


def test_a_share_of_the_sms_is_given_as_mps_takes_it(name: str, tmp_path: Path) -> None:
    variable = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
    volta, maxwell = gpu(name, tmp_path), gpu(name, tmp_path, "g3s.xlarge")
    assert volta.environment(30) == {variable: "30"}
    assert volta.environment(0) == volta.environment(100) == maxwell.environment(30) == {}
    assert not maxwell.sm_shares


@pytest.mark.parametrize("kind", ["p3.2xlagre", "c6i.2xlarge", ""])
def test_only_gpus_of_the_catalog_can_be_emulated(kind: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"p3\.2xlarge, p2\.xlarge, g3s\.xlarge"):
        machine_of(kind)
