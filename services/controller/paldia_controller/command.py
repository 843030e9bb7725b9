"""The provisioner that runs a command of the operator's: `COMMAND activate|release NODE HARDWARE`.

The command gets the machine's figures as JSON on its standard input and says by its exit code
whether the machine has been asked for, or given back; it need not wait for it. What it writes to
standard error is its reason. Arguments are never read by a shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO

from paldia.api import convert
from paldia.api.v1 import types_pb2
from paldia.core.errors import InvalidArgumentError
from paldia.kit.observability import logger
from paldia.kit.text import printable
from paldia_controller.provisioner import ProvisionError

REASON_LIMIT_BYTES = 1024
"""How much of what a command wrote is kept: the end of it."""
LAST_WORDS_S = 0.2
"""Longest wait for what a command that has ended wrote last; who it started may hold on to it."""
OWN_SETTINGS = "PALDIA_"
"""Begins the names of this process's settings; an agent on this machine would take them for its."""


class CommandProvisioner:
    """Runs a command for each machine that is asked for or given back."""

    def __init__(self, command: str, machines: Mapping[str, types_pb2.Hardware]) -> None:
        """Take a command with its first arguments, quoted as for a shell.

        Raises:
            InvalidArgumentError: it is none, or can't be run.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise InvalidArgumentError(f"the provision command {command!r}: {error}") from error
        if not self._words or shutil.which(self._words[0]) is None:
            raise InvalidArgumentError(
                f"the provision command {command!r} can't be run: no program of that name may be "
                "executed; give its whole path, and make it executable"
            )
        self._machines = dict(machines)

    @property
    def machines(self) -> Mapping[str, types_pb2.Hardware]:
        """Those that may be had, by node id."""
        return self._machines

    async def activate(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        """Ask for a machine.

        Raises:
            ProvisionError: the command failed, or took longer than `limit_s`.
        """
        await self._run("activate", node_id, hardware, limit_s)

    async def release(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        """Give a machine back.

        Raises:
            ProvisionError: the command failed, or took longer than `limit_s`.
        """
        await self._run("release", node_id, hardware, limit_s)

    async def _run(
        self, verb: str, node_id: str, hardware: types_pb2.Hardware, limit_s: float
    ) -> None:
        words = [*self._words, verb, node_id, hardware.name]
        with _details(verb, node_id, hardware) as details, _Words() as said:
            try:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=details,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=await said.open(),
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise ProvisionError(f"{self._words[0]}: {error.strerror}") from error
            said.listen()
            try:
                async with asyncio.timeout(limit_s):
                    code = await process.wait()
            except TimeoutError:
                said.note(f"{verb} still ran after {limit_s:g} s and was ended")
                code = None
            finally:
                # All that it started ends with it, unless it has done its work.
                if process.returncode is None:
                    _end(process.pid)
                    await process.wait()
            await said.ended()
        logger().info("provisioner.ran", verb=verb, node=node_id, code=code, stderr=said.text)
        if code is None:
            raise ProvisionError(said.text)
        if code != 0:
            raise ProvisionError(f"{verb} ended with {code}: {said.text or 'it gave no reason'}")


class _Words(asyncio.Protocol):
    """The end of what a command writes to standard error.

    A pipe of our own: what the command leaves behind running may hold it open for ever.
    """

    def __init__(self) -> None:
        self._bytes = b""
        self._note = ""
        self._ends: list[int] = []
        self._transport: asyncio.BaseTransport | None = None
        self._over = asyncio.Event()

    def __enter__(self) -> _Words:
        return self

    def __exit__(self, *_: object) -> None:
        self.listen()
        if self._transport is not None:
            self._transport.close()

    async def open(self) -> int:
        """Give the end that the command writes to."""
        reading, writing = os.pipe()
        self._ends = [writing]
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(reading, "rb", 0))
        return writing

    def listen(self) -> None:
        """Close our copy of that end, so that it is over when the command's is closed."""
        while self._ends:
            os.close(self._ends.pop())

    async def ended(self) -> None:
        """Wait until all has been read, as far as that comes soon."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), LAST_WORDS_S)

    def note(self, text: str) -> None:
        """Put something before what the command wrote."""
        self._note = text

    @property
    def text(self) -> str:
        """What it wrote, and the note."""
        wrote = printable(self._bytes.decode(errors="replace")).strip()
        return ": ".join(part for part in (self._note, wrote) if part)

    def data_received(self, data: bytes) -> None:
        self._bytes = (self._bytes + data)[-REASON_LIMIT_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()


@contextlib.contextmanager
def _details(verb: str, node_id: str, hardware: types_pb2.Hardware) -> Iterator[IO[bytes]]:
    """Give a file with what the command is told: no pipe, which it might leave unread."""
    told = {
        "action": verb,
        "node_id": node_id,
        "hardware": {
            "name": hardware.name,
            "price_usd_per_hour": hardware.price_usd_per_hour,
            "memory_bytes": hardware.memory_bytes,
            "cores": hardware.cores,
            "gpus": len(hardware.gpus),
            "accelerator": hardware.gpus[0].name if hardware.gpus else "",
            "activation_s": convert.seconds(hardware.activation),
            "triton_image": hardware.triton_image,
            "tritonserver": hardware.tritonserver,
        },
    }
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(told).encode())
        file.seek(0)
        yield file


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(OWN_SETTINGS)}


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
