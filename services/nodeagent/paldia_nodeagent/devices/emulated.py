"""An emulated accelerator in place of a real one: its process, kept running, and its meters.

The emulator outlives an agent that is killed, as the Tritons do that run on it, and is adopted
by the next. One that is dead or silent is replaced; the models find the new one by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paldia.api.v1 import types_pb2 as pb
from paldia.catalog import Machine
from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent import processes
from paldia_nodeagent.emulator import wire

_ANSWER_LIMIT_S = 2.0
_START_LIMIT_S = 20.0
_DEATH_LIMIT_S = 3.0
_READ_EVERY_S = 1.0
_POLL_S = 0.02
_BACKOFF_MOST_S = 30.0
_PEER = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class _Meters:
    """One reading of the emulator's meters."""

    now_s: float
    busy_s: float
    joules: float
    memory_bytes: Mapping[int, int]


class EmulatedGpu:
    """One accelerator of the catalog, emulated."""

    def __init__(self, machine: Machine, *, name: str, log: Path, speed: float) -> None:
        """Emulate `machine`'s GPU, at `speed` of its own.

        The emulator's socket is called `name`, which no other on this machine may be; what it
        has to say goes to `log`.
        """
        self._machine = machine
        self._name = name
        self._log = log
        self._speed = speed
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: _Connection | None = None
        self._before: _Meters | None = None
        self._latest: _Meters | None = None
        self._problem = ""

    @property
    def sm_shares(self) -> bool:
        """Whether a process can be held to a share of the SMs."""
        return self._machine.hardware.sm_shares

    @property
    def problem(self) -> str:
        """Why no model can run on it; empty if one can."""
        return self._problem

    def describe(self) -> list[pb.Gpu]:
        """Describe the card."""
        return [
            pb.Gpu(
                uuid=self._name,
                name=f"{self._machine.accelerator} (emulated)",
                memory_bytes=self._machine.hardware.memory_bytes,
            )
        ]

    def utilisation(self) -> list[pb.GpuUtilisation]:
        """Say how busy the card was between the last two readings."""
        told = pb.GpuUtilisation(uuid=self._name)
        before, latest = self._before, self._latest
        if latest is not None:
            told.memory_used_bytes = sum(latest.memory_bytes.values())
        if latest is not None and before is not None and latest.now_s > before.now_s:
            span_s = latest.now_s - before.now_s
            told.sm = min(1.0, (latest.busy_s - before.busy_s) / span_s)
            told.power_watts = (latest.joules - before.joules) / span_s
        return [told]

    def warnings(self) -> list[str]:
        """Say that the card isn't real."""
        emulated = (
            f"this node's {self._machine.accelerator} is emulated: models take the time that the "
            "catalog says, and answer zeros"
        )
        return [emulated]

    def environment(self, sm_percent: int) -> Mapping[str, str]:
        """Give what holds a model's Triton to a share of the SMs, as MPS has it; 0 is all."""
        if not self.sm_shares or not 0 < sm_percent < 100:
            return {}
        return {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(sm_percent)}

    def memory_used_bytes(self, pid: int) -> int | None:
        """Give the card's memory that a process has; None if it has none or nobody knows."""
        return self._latest.memory_bytes.get(pid) if self._latest is not None else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the emulator running, and end it at last.

        Raises:
            UnavailableError: it doesn't start.
        """
        await self.start()
        upkeep = asyncio.create_task(self.keep_up())
        try:
            yield
        finally:
            upkeep.cancel()
            await asyncio.wait({upkeep})
            await self.stop()

    async def start(self) -> None:
        """Adopt the emulator that an earlier agent left, or start one.

        Raises:
            UnavailableError: it doesn't come up, with what it says.
        """
        try:
            await self._read()
            logger().info("emulator.adopted", pid=self._pid())
        except (OSError, EOFError, TimeoutError, InvalidArgumentError):
            await self._renew()

    async def keep_up(self) -> None:
        """Read the meters once a second and replace an emulator that is dead or silent."""
        wait_s = _READ_EVERY_S
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self._read()
                wait_s = _READ_EVERY_S
                continue
            except (OSError, EOFError, TimeoutError, InvalidArgumentError) as error:
                logger().warning("emulator.lost", reason=f"{type(error).__name__}: {error}")
            try:
                await self._renew()
                wait_s = _READ_EVERY_S
            except UnavailableError as error:
                self._problem = str(error)
                logger().error("emulator.failed", reason=str(error))
                wait_s = min(wait_s * 2, _BACKOFF_MOST_S)

    async def stop(self) -> None:
        """End the emulator."""
        await self._end(signal.SIGTERM)

    async def _renew(self) -> None:
        """End what is left of an emulator and start one."""
        await self._end(signal.SIGKILL)
        self._before = self._latest = None
        self._child = child = self._spawn()
        deadline_s = time.monotonic() + _START_LIMIT_S
        while child.poll() is None and time.monotonic() < deadline_s:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await self._read()
                self._problem = ""
                logger().info("emulator.started", pid=self._pid())
                return
            await asyncio.sleep(_POLL_S)
        said = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise UnavailableError(f"the emulator doesn't start: {said or 'it says nothing'}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        hardware = self._machine.hardware
        with self._log.open("wb") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", processes.EMULATOR),
                    *("--socket", self._name, "--hardware", hardware.name),
                    *("--memory-bytes", str(hardware.memory_bytes)),
                    *("--idle-watts", str(hardware.idle_watts)),
                    *("--rated-watts", str(hardware.rated_watts), "--speed", str(self._speed)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # It outlives the agent, as the Tritons do.
                start_new_session=True,
            )

    def _pid(self) -> int | None:
        return self._connection.pid if self._connection is not None else None

    async def _end(self, signum: int) -> None:
        if self._connection is None:
            with contextlib.suppress(OSError):
                self._connection = await _Connection.open(self._name)
        pid = self._pid() or (self._child.pid if self._child is not None else None)
        self._disconnect()
        if pid is not None:
            for number in (signum, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                await processes.wait_dead([pid], _DEATH_LIMIT_S)
                if processes.started_ticks(pid) is None:
                    break
        if self._child is not None:
            self._child.poll()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _read(self) -> None:
        """Read the meters.

        Raises:
            OSError, EOFError, TimeoutError: nobody answers.
            InvalidArgumentError: somebody else does.
        """
        try:
            if self._connection is None:
                self._connection = await _Connection.open(self._name)
            told = await asyncio.wait_for(self._connection.ask({"read": True}), _ANSWER_LIMIT_S)
            is_ours = (told.get("hardware"), told.get("speed")) == (
                self._machine.hardware.name,
                self._speed,
            )
            if not is_ours:
                raise InvalidArgumentError("an emulator of other hardware runs under this name")
            meters = _Meters(
                told["now_s"],
                told["busy_s"],
                told["joules"],
                {int(pid): int(size) for pid, size in told["memory_bytes"].items()},
            )
        except InvalidArgumentError:
            # Kept connected, so that it can be ended.
            raise
        except BaseException:
            self._disconnect()
            raise
        self._before, self._latest = self._latest, meters


class _Connection:
    """A connection to an emulator; `pid` is the process at its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        peer = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
        )
        self.pid: int = _PEER.unpack(peer)[0]

    @classmethod
    async def open(cls, name: str) -> _Connection:
        """Connect.

        Raises:
            OSError: nobody listens.
        """
        return cls(
            *await asyncio.open_unix_connection(wire.address(name), limit=wire.LINE_LIMIT_BYTES)
        )

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Say something and give the answer.

        Raises:
            OSError, EOFError: it hung up.
        """
        self._writer.write(wire.encode(message))
        line = await self._reader.readuntil(b"\n")
        return wire.decode(line)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
