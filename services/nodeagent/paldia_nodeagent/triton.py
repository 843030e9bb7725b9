"""One Triton process: started, asked, measured, ended.

It has a session of its own, so it outlives the agent, and one signal reaches it with
its stubs. It serves gRPC on a port that the system picks, read from the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

import grpc
import psutil

from paldia.core.errors import NotServableError, UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent import causes, processes, repository
from paldia_nodeagent.admin import TritonAdmin
from paldia_nodeagent.ledger import Record
from paldia_nodeagent.repository import ModelConfig
from paldia_nodeagent.site import Site

STOP_GRACE_S = 10.0
"""Time that inferences under way have to finish."""
_START_LIMIT_S = 30.0
DEATH_LIMIT_S = 5.0
"""Time that a killed process may take to be gone."""
_SILENCES_MOST = 2
# Triton asks after a stub that it ended itself sooner than this.
_STUB_ENDS_S = 2.0
_POLL_S = 0.05
_LOG_LIMIT_BYTES = 4 << 20
_LOG_KEPT_BYTES = 1 << 20
_LOG_READ_BYTES = 256 << 10
# The name as the kernel keeps it, cut to 15 bytes.
_STUB_NAME = "triton_python_b"


class LoadHungError(NotServableError):
    """A load that didn't end in time; the Triton it hangs in is of no more use."""


class TritonProcess:
    """A Triton that holds one model."""

    def __init__(
        self,
        record: Record,
        log: Path,
        site: Site,
        child: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.record = record
        self.config: ModelConfig = None
        self._log = log
        self._site = site
        self._child = child
        self._admin: TritonAdmin | None = None
        self._silences = 0

    @property
    def admin(self) -> TritonAdmin:
        """Calls to its server, once the port is known."""
        if self._admin is None:
            if not self.record.endpoint:
                raise UnavailableError("Triton doesn't listen yet")
            self._admin = TritonAdmin(self.record.endpoint)
        return self._admin

    @property
    def lanes(self) -> int:
        """Number of instances of its model."""
        return repository.lanes_of(self.config)

    def alive(self) -> bool:
        """Whether the process runs."""
        return processes.started_ticks(self.record.pid) == self.record.started_ticks

    def memory_bytes(self) -> int:
        """Give its resident memory, stubs included."""
        return processes.resident_bytes(self.record.pid)

    def device_memory_bytes(self) -> int:
        """Give the memory it takes of the device that it runs on, as far as that is known."""
        emulation = self._site.emulation
        if emulation is not None:
            return emulation.gpu.memory_used_bytes(self.record.pid) or 0
        return self.memory_bytes()

    def demanded_cpu_s(self) -> float:
        """Give the CPU seconds it had or waited for so far, stubs included."""
        return processes.demanded_cpu_s(self.record.pid)

    async def listen(self) -> None:
        """Wait until its server answers.

        Raises:
            NotServableError: it died, with what it said.
            UnavailableError: it took too long.
        """
        deadline_s = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline_s:
            if not self.alive():
                said = causes.fit_to_tell(causes.log_cause(self.log_since(0)))
                raise NotServableError(f"Triton didn't start: {said or 'it said nothing'}")
            if port := self._port():
                host = self._site.host
                self.record = dataclasses.replace(self.record, endpoint=f"{host}:{port}")
                if await self.admin.live():
                    return
            await asyncio.sleep(_POLL_S)
        raise UnavailableError(f"Triton didn't answer within {_START_LIMIT_S:g} s of its start")

    def _port(self) -> int | None:
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(self.record.pid).net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    return int(connection.laddr.port)
        return None

    async def load(self, lanes: int) -> None:
        """Load its model with `lanes` instances, or change their number without a gap.

        Raises:
            LoadHungError: it took too long.
            NotServableError: it can't be loaded, with Triton's reason.
        """
        if self.config is None:
            await self._load("")
        if self.lanes != lanes:
            await self._load(repository.override_json(repository.with_lanes(self.config, lanes)))

    async def _load(self, override: str) -> None:
        position = self._log_bytes()
        call = asyncio.create_task(
            self.admin.load(self.record.model, override, self._site.load_limit_s)
        )
        watch = asyncio.create_task(self._see_stub_die())
        try:
            await asyncio.wait({call, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise LoadHungError(f"{watch.result()}; {self._cause('', position)}")
            await call
        except grpc.aio.AioRpcError as error:
            if not self.alive():
                raise NotServableError(
                    f"Triton died while loading it; {self._cause('', position)}"
                ) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LoadHungError(
                    f"not loaded within {self._site.load_limit_s:g} s; {self._cause('', position)}"
                ) from error
            raise NotServableError(self._cause(error.details() or "", position)) from error
        finally:
            call.cancel()
            watch.cancel()
        self.config = await self.admin.config(self.record.model)

    def _cause(self, message: str, position: int) -> str:
        reason = causes.load_reason(
            message,
            self.log_since(position),
            str(self._site.repository(self.record.run)),
            self._site.finder.backend_names(),
        )
        return reason or "it said nothing"

    async def _see_stub_die(self) -> str:
        """Wait for a stub that is dead and stays so, and give its end.

        Triton waits for ever for a stub that dies while it loads.
        """
        dead: set[int] = set()
        while True:
            await asyncio.sleep(_STUB_ENDS_S)
            fates = self._stub_fates()
            gone = {pid for pid, fate in fates.items() if fate is not None}
            if stayed := sorted(dead & gone):
                code = fates[stayed[0]] or 0
                how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
                return f"its Python process ended {how} while loading"
            dead = gone

    async def check_health(self) -> None:
        """Check what makes it able to answer; Triton alone still calls a dead stub ready.

        Raises:
            UnavailableError: it isn't, with what is wrong.
        """
        if not self.alive():
            raise UnavailableError("Triton died")
        if self.config.backend == "python":
            stubs = sum(fate is None for fate in self._stub_fates().values())
            if stubs < self.lanes:
                raise UnavailableError(
                    f"{self.lanes - stubs} of {self.lanes} Python stubs died; "
                    "Triton never restarts them"
                )
        answers = await self.admin.live() and await self.admin.ready(self.record.model)
        # Once may be the machine's fault: a paused one wakes up past every deadline.
        self._silences = 0 if answers else self._silences + 1
        if self._silences >= _SILENCES_MOST:
            raise UnavailableError("Triton doesn't answer that it is ready")
        self._trim_log()

    def _stub_fates(self) -> dict[int, int | None]:
        return processes.fates_of_children(self.record.pid, _STUB_NAME)

    def settle(self, load_s: float) -> None:
        """Put it on record as serving, so that a later agent may adopt it."""
        self.record = dataclasses.replace(self.record, load_s=load_s)
        self._site.ledger.write(self.record)

    async def end(self, grace_s: float = STOP_GRACE_S) -> None:
        """End it: what is under way has `grace_s` seconds to finish, then it is killed."""
        self._site.throttle.remove(self.record.pid)
        if self.alive():
            processes.signal_group(self.record.pid, signal.SIGCONT)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.record.pid, signal.SIGTERM)
            # Triton counts the grace itself; a little more lets it leave by itself.
            await processes.wait_dead([self.record.pid], grace_s + 1)
        await self.kill()

    async def kill(self) -> None:
        """Kill it with its stubs, and remove all it leaves behind."""
        self._site.throttle.remove(self.record.pid)
        unreaped = self._child is not None and self._child.returncode is None
        if unreaped or self.alive():
            # Its pid can't have been given to another, so the group is still its own.
            processes.signal_group(self.record.pid, signal.SIGKILL)
        prefix = self._site.prefix(self.record.run)
        stubs = processes.kill_marked(prefix)
        # Removed while something still runs, shared memory might appear again.
        await processes.wait_dead([self.record.pid, *stubs], DEATH_LIMIT_S)
        if self._child is not None:
            self._child.poll()
        if self._admin is not None:
            await self._admin.close()
        processes.remove_shared_memory(prefix)
        self._site.ledger.forget(self.record.run)
        logger().info("triton.ended", pid=self.record.pid, model=self.record.model)

    def log_since(self, position: int) -> str:
        """Give what it logged since a position, or the end of that if it is much."""
        try:
            with self._log.open("rb") as file:
                size_bytes = file.seek(0, os.SEEK_END)
                start = position if position <= size_bytes else 0
                file.seek(max(start, size_bytes - _LOG_READ_BYTES))
                return file.read(_LOG_READ_BYTES).decode(errors="replace")
        except OSError:
            return ""

    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.is_file() else 0

    def _trim_log(self) -> None:
        """Keep the end of a log grown too long. Triton appends, so it goes on after it."""
        if self._log_bytes() > _LOG_LIMIT_BYTES:
            with self._log.open("r+b") as file:
                file.seek(-_LOG_KEPT_BYTES, os.SEEK_END)
                tail = file.read(_LOG_KEPT_BYTES)
                file.truncate(0)
            with self._log.open("ab") as file:
                file.write(tail)
