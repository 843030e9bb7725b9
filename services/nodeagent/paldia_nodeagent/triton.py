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
from collections.abc import Coroutine
from typing import Any

import grpc

from paldia.core.errors import NotServableError, UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent import causes, processes, repository
from paldia_nodeagent.admin import TritonAdmin
from paldia_nodeagent.health import Health
from paldia_nodeagent.inputs import smallest_request
from paldia_nodeagent.ledger import Record
from paldia_nodeagent.loading import LoadHungError, guard
from paldia_nodeagent.logs import TritonLog
from paldia_nodeagent.memory import Verdict
from paldia_nodeagent.repository import ModelConfig
from paldia_nodeagent.site import Site

STOP_GRACE_S = 10.0
"""Time that inferences under way have to finish."""
_START_LIMIT_S = 30.0
DEATH_LIMIT_S = 5.0
"""Time that a killed process may take to be gone."""
_POLL_S = 0.05
# Asked so often, or for so long, a model has shown what a batch takes on a busy machine.
_TRIES_MOST = 8
_TRIES_S = 0.5


class TritonProcess:
    """A Triton that holds one model."""

    def __init__(
        self,
        record: Record,
        log: TritonLog,
        site: Site,
        child: subprocess.Popen[bytes] | None = None,
        *,
        patience: int = 1,
    ) -> None:
        """Take up the process on record; `patience` times as long as usual it may stand still."""
        self.record = record
        self.config: ModelConfig = None
        self.log = log
        self._site = site
        self._child = child
        self._admin: TritonAdmin | None = None
        self._stall_s = site.stall_s * patience * site.throttle.slowdown
        self._health: Health | None = None
        self._single_s = 0.0

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

    def judge_memory(self) -> Verdict:
        """Say what follows from the memory it holds.

        Raises:
            UnavailableError: it is at its limit.
        """
        return self._site.memory.judge(self.memory_bytes(), self.record.loaded_bytes)

    def memory_bytes(self) -> int:
        """Give its resident memory, stubs included."""
        return processes.resident_bytes(self.record.pid)

    def device_memory_bytes(self) -> int:
        """Give the memory it takes of the device that it runs on, as far as that is known."""
        held_bytes = self._site.accelerators.memory_used_bytes(self.record.pid)
        if held_bytes is not None:
            return held_bytes
        return self.memory_bytes() if self._site.emulation is None else 0

    def demanded_cpu_s(self) -> float:
        """Give the CPU seconds it had or waited for so far, stubs included.

        Without the wait, a process that shares its cores would seem to want less.
        """
        return processes.work(self.record.pid).demanded_s

    async def listen(self) -> None:
        """Wait until its server answers.

        Raises:
            NotServableError: it died, with what it said.
            UnavailableError: it took too long.
        """
        deadline_s = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline_s:
            if not self.alive():
                said = causes.fit_to_tell(causes.log_cause(self.log.since(0)))
                raise NotServableError(f"Triton didn't start: {said or 'it said nothing'}")
            if port := processes.listening_port(self.record.pid):
                host = self._site.host
                self.record = dataclasses.replace(self.record, endpoint=f"{host}:{port}")
                if await self.admin.live():
                    return
            await asyncio.sleep(_POLL_S)
        raise UnavailableError(f"Triton didn't answer within {_START_LIMIT_S:g} s of its start")

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
        limit_s = self._site.load_limit_s
        position = self.log.size_bytes()
        try:
            await self._unless_hung(self.admin.load(self.record.model, override, limit_s), position)
        except grpc.aio.AioRpcError as error:
            if not self.alive():
                raise NotServableError(
                    f"Triton died while loading it; {self._cause('', position)}"
                ) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LoadHungError(
                    f"not loaded within {limit_s:g} s; {self._cause('', position)}"
                ) from error
            raise NotServableError(self._cause(error.details() or "", position)) from error
        self.config = await self.admin.config(self.record.model)

    async def _unless_hung(self, call: Coroutine[None, None, None], position: int) -> None:
        """Await a call, unless it is seen that it won't end.

        Raises:
            LoadHungError: it won't, with what was logged after `position`.
            NotServableError: it takes too much memory, the same.
        """
        work = asyncio.create_task(call)
        watch = asyncio.create_task(guard(self.record.pid, self._stall_s, self._site.memory))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            await (work if work.done() else watch)
        except NotServableError as error:
            raise type(error)(f"{error}; {self._cause('', position)}") from error
        finally:
            work.cancel()
            watch.cancel()

    def _cause(self, message: str, position: int) -> str:
        reason = causes.load_reason(
            message,
            self.log.since(position),
            str(self._site.repository(self.record.run)),
            self._site.finder.backend_names(),
        )
        return reason or "it said nothing"

    async def try_out(self) -> None:
        """Have the model that was loaded answer a few times, the slow first time included.

        What it answers doesn't matter, an error included; that it can, and how fast, does.

        Raises:
            LoadHungError: it doesn't answer.
            NotServableError: its first batch ends its process.
        """
        if (probe := self._probe()) is None:
            return
        began_s = time.monotonic()
        took_s = [await self._try(probe), await self._try(probe)]
        while len(took_s) < _TRIES_MOST and time.monotonic() - began_s < _TRIES_S:
            took_s.append(await self._try(probe))
        self._single_s = min(took_s)

    async def _try(self, probe: Any) -> float:
        """Ask once; give the seconds that took."""
        position, began_s = self.log.size_bytes(), time.monotonic()
        limit_s = self._site.load_limit_s
        try:
            await self._unless_hung(self.admin.infer(probe, limit_s), position)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LoadHungError(
                    f"it loads, but gives no answer within {limit_s:g} s"
                ) from error
            if not self.alive() or len(self._stubs()) < self._stubs_wanted():
                cause = self._cause(error.details() or "", position)
                raise NotServableError(f"it loads, but its first batch ends it: {cause}") from error
        return time.monotonic() - began_s

    def _probe(self) -> Any:
        model = self.record.model
        folder = self._site.repository(self.record.run) / model
        return smallest_request(model, self.config, folder)

    def _stubs(self) -> list[int]:
        fates = processes.fates_of_stubs(self.record.pid)
        return [pid for pid, fate in fates.items() if fate is None]

    def _stubs_wanted(self) -> int:
        return self.lanes if self.config.backend == "python" else 0

    async def check_health(self) -> bool:
        """Check what makes it able to answer; Triton alone still calls a dead stub ready.

        Gives whether all is as it should be; if not, look again soon.

        Raises:
            UnavailableError: it isn't able, with what is wrong.
        """
        if not self.alive():
            raise UnavailableError("Triton died")
        stubs, wanted = self._stubs(), self._stubs_wanted()
        if len(stubs) < wanted:
            raise UnavailableError(
                f"{wanted - len(stubs)} of {wanted} Python stubs died; Triton never restarts them"
            )
        if self._health is None:
            self._health = Health(
                self.admin,
                self.record.pid,
                self.record.model,
                self._probe(),
                largest=self.config.max_batch_size,
                single_s=self._single_s,
                stall_s=self._stall_s,
            )
        return await self._health.check(stubs)

    def settle(self, load_s: float) -> None:
        """Put it on record as serving, so that a later agent may adopt it."""
        self.record = dataclasses.replace(
            self.record, load_s=load_s, loaded_bytes=self.memory_bytes()
        )
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
        if self._health is not None:
            self._health.close()
        if self._admin is not None:
            await self._admin.close()
        processes.remove_shared_memory(prefix)
        self._site.logs.remove(self.record.run)
        self._site.ledger.forget(self.record.run)
        logger().info("triton.ended", pid=self.record.pid, model=self.record.model)
