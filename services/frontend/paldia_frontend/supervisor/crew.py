"""The workers' processes: started, watched, replaced. Never more than one more than asked for.

A worker has a place (slot); one that takes over for another that still works gets another place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping

from paldia.core.errors import UnavailableError
from paldia.kit.lifecycle import tethered, wait_any
from paldia.kit.observability import logger
from paldia_frontend.settings import FrontendSettings, WorkerSettings
from paldia_frontend.supervisor.relay import Relay
from paldia_frontend.supervisor.workplace import Workplace

HANG_S = 10.0
"""A worker reports each second; one that is silent for so long is ended."""
START_S = 60.0
"""Longest a worker may take until it serves."""
END_S = 10.0
"""Longest a worker may take to end once it is told to: a little more than it lets requests."""
_RENEW_AGES = 2.0
"""One that is replaced may take so many times as long as connections live."""
_LOOK_S = 0.5
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MOST_S = 10.0
_LASTED_S = 30.0
"""A worker that lived so long didn't die of how it was started."""


class _Worker:
    """A process that serves, or is about to."""

    def __init__(self, slot: int, number: int, process: asyncio.subprocess.Process) -> None:
        self.slot = slot
        self.number = number
        self.process = process
        self.began_s = time.monotonic()
        self.exited = asyncio.ensure_future(process.wait())

    def end(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signum)


class Crew:
    """All workers of a frontend."""

    def __init__(
        self, settings: FrontendSettings, workplace: Workplace, relay: Relay, stop: asyncio.Event
    ) -> None:
        """End all workers at `stop`."""
        self._settings = settings
        self._workplace = workplace
        self._relay = relay
        self._stop = stop
        self._free = set(range(1, settings.workers + 2))
        self._numbers = itertools.count(1)
        self._renew: set[int] = set()
        self._renewal = asyncio.Event()
        self._ready: set[int] = set()
        # At most one that was replaced and still works, so one place more is enough.
        self._farewell: asyncio.Task[None] | None = None
        self.all_ready = asyncio.Event()

    async def run(self) -> None:
        """Keep as many workers as asked for, until `stop`.

        Raises:
            UnavailableError: one ended before it ever served.
        """
        async with asyncio.TaskGroup() as tasks:
            for seat in range(self._settings.workers):
                tasks.create_task(self._keep(seat))
        if self._farewell is not None:
            await self._farewell

    def renew(self) -> None:
        """Replace all workers, one after the other, each before it ends."""
        self._renew = set(range(self._settings.workers))
        self._renewal.set()

    async def _keep(self, seat: int) -> None:
        """Keep one worker."""
        backoff_s = _BACKOFF_FIRST_S
        worker: _Worker | None = None
        while not self._stop.is_set():
            if worker is None:
                worker = await self._start()
                if not await self._serves(worker):
                    await self._bury(worker, signal.SIGKILL)
                    if seat not in self._ready and not self._stop.is_set():
                        raise UnavailableError(
                            f"a worker ended with {_how(worker)} before it served; "
                            "the log above says why"
                        )
                    worker = None
                else:
                    self._now_ready(seat)
            elif self._is_turn(seat):
                worker = await self._replaced(worker)
                self._renew.discard(seat)
            else:
                await self._watch(worker)
            if worker is not None and worker.exited.done():
                logger().error("worker.died", worker=worker.slot, status=_how(worker))
                self._workplace.count_death()
                lasted = time.monotonic() - worker.began_s > _LASTED_S
                backoff_s = _BACKOFF_FIRST_S if lasted else min(backoff_s * 2, _BACKOFF_MOST_S)
                await self._bury(worker, signal.SIGKILL)
                worker = None
            if worker is None:
                await wait_any([self._stop.wait()], backoff_s)
        if worker is not None:
            await self._bury(worker, signal.SIGTERM)

    def _is_turn(self, seat: int) -> bool:
        return self._farewell is None and bool(self._renew) and seat == min(self._renew)

    def _now_ready(self, seat: int) -> None:
        self._ready.add(seat)
        if len(self._ready) == self._settings.workers:
            self.all_ready.set()

    async def _start(self) -> _Worker:
        slot, number = min(self._free), next(self._numbers)
        self._free.discard(slot)
        told = WorkerSettings.model_validate(
            {
                **self._settings.model_dump(exclude={"ready_file"}),
                "controller": self._workplace.relay_address,
                "bind": self._workplace.address,
                "slot": slot,
                "worker": number,
                "folder": self._workplace.folder,
            }
        )
        process = await asyncio.create_subprocess_exec(
            *tethered([sys.executable, "-m", "paldia_frontend.worker"]),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment(told),
            # Ctrl-C reaches all of a terminal's group at once: this process passes it on.
            start_new_session=True,
        )
        return _Worker(slot, number, process)

    def _environment(self, told: WorkerSettings) -> Mapping[str, str]:
        return {
            **os.environ,
            **told.environment(),
            "PROMETHEUS_MULTIPROC_DIR": str(self._workplace.metrics_folder),
        }

    async def _serves(self, worker: _Worker) -> bool:
        """Wait until a worker serves; False if it ends before, takes too long, or all stop."""
        until_s = time.monotonic() + START_S
        while not self._relay.is_here(worker.slot):
            if worker.exited.done() or self._stop.is_set() or time.monotonic() > until_s:
                return False
            self._relay.changed.clear()
            await wait_any([self._relay.changed.wait(), _done(worker.exited)], _LOOK_S)
        logger().info("worker.serving", worker=worker.slot, pid=worker.process.pid)
        return True

    async def _watch(self, worker: _Worker) -> None:
        """Wait for something to happen; end a worker that hangs."""
        self._renewal.clear()
        await wait_any([self._stop.wait(), self._renewal.wait(), _done(worker.exited)], _LOOK_S)
        silent_s = self._relay.silent_s(worker.slot)
        if silent_s > HANG_S and not self._stop.is_set():
            logger().error("worker.hangs", worker=worker.slot, silent_s=round(silent_s, 1))
            worker.end(signal.SIGKILL)
            await worker.exited

    async def _replaced(self, old: _Worker) -> _Worker:
        """Have another worker take over; the old one stays if that doesn't come to serve."""
        new = await self._start()
        if not await self._serves(new):
            logger().error("worker.not_replaced", worker=old.slot, status=_how(new))
            await self._bury(new, signal.SIGKILL)
            return old
        self._farewell = asyncio.create_task(self._see_off(old))
        return new

    async def _see_off(self, old: _Worker) -> None:
        """Let a worker whose place another has taken work until its clients have gone there."""
        self._relay.leave(old.slot)
        old.end(signal.SIGHUP)
        limit_s = _RENEW_AGES * self._settings.connection_age_s + END_S
        await wait_any([_done(old.exited), self._stop.wait()], limit_s)
        await self._bury(old, signal.SIGTERM)
        self._farewell = None
        self._renewal.set()

    async def _bury(self, worker: _Worker, signum: int) -> None:
        """End a worker, wait for that, and free its place."""
        worker.end(signum)
        await asyncio.wait([worker.exited], timeout=END_S)
        if not worker.exited.done():
            logger().error("worker.killed", worker=worker.slot, waited_s=END_S)
            worker.end(signal.SIGKILL)
            await worker.exited
        self._relay.ended(worker.number)
        self._workplace.clear(worker.slot)
        self._free.add(worker.slot)


async def _done(future: asyncio.Future[int]) -> None:
    await asyncio.wait([future])


def _how(worker: _Worker) -> str:
    code = worker.process.returncode
    if code is None:
        return "no exit status"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
