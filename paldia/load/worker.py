"""A process that sends: `python -m paldia.load.worker FD`, a pipe's end, and jobs come over it.

It ends when the pipe does, so none is left behind by a parent that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from paldia.core.errors import PaldiaError
from paldia.kit.lifecycle import sleep_unless
from paldia.load.answers import Checker
from paldia.load.outcomes import ANSWERED, MALFORMED, Log
from paldia.load.sender import Sender, Settled, open_channels, precise_loop
from paldia.load.talk import Failed, Finished, Job, Ready, Start

REPORT_S = 0.25
"""Between two reports of outcomes."""
STOP_GRACE_S = 1.0
"""For what is under way when it is told to stop."""


class _Book:
    """Writes outcomes down, and looks into answers."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self.log = Log()
        self.details: dict[str, str] = {}

    def settle(self, it: Settled) -> None:
        code, details = it.code, it.details
        if code == ANSWERED:
            details = self._checker.problem(it.number, it.answer)
            code = MALFORMED if details else code
        if details and code not in self.details:
            self.details[code] = details
        self.log.note(it.intended_s, it.sent_s - it.intended_s, it.done_s, code)


async def _serve(pipe: Connection) -> None:
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None  # noqa: S101 - it runs in a task

    def hear() -> None:
        try:
            inbox.put_nowait(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            me.cancel()

    loop.add_reader(pipe.fileno(), hear)
    while True:
        job = await inbox.get()
        # A Stop may come after the last request is known.
        if isinstance(job, Job):
            try:
                await _work(job, inbox, pipe)
            except PaldiaError as error:
                pipe.send(Failed(str(error)))


async def _work(job: Job, inbox: asyncio.Queue[Any], pipe: Connection) -> None:
    book = _Book(Checker(job.check_every, job.outputs))
    async with open_channels(job.address, job.connections) as channels:
        sender = Sender(
            channels,
            job.payloads,
            book.settle,
            deadline_s=job.deadline_s,
            in_flight_limit=job.in_flight_limit,
            metadata=job.metadata,
        )
        # What is there now stays: the collector needn't look at it again and again.
        gc.collect()
        gc.freeze()
        pipe.send(Ready())
        start = await inbox.get()
        if not isinstance(start, Start):
            return
        sender.start_at(start.at_s)
        cpu_s, ended = time.process_time(), asyncio.Event()
        telling = asyncio.create_task(_tell(book.log, pipe, ended))
        try:
            await _send(job, sender, inbox)
        finally:
            ended.set()
            await telling
        finished = Finished(time.process_time() - cpu_s, sender.now_s(), book.details)
    # Once disconnected, so that a server that ends then has nobody to say it to.
    pipe.send(finished)


async def _send(job: Job, sender: Sender, inbox: asyncio.Queue[Any]) -> None:
    """Send all, or until something else is said."""
    loop = (
        sender.closed_loop(job.callers, job.until_s)
        if job.offsets_s is None
        else sender.open_loop(job.offsets_s.tolist())
    )
    sending, hearing = asyncio.create_task(loop), asyncio.create_task(inbox.get())
    await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
    hearing.cancel()
    if sending.done():
        sending.result()
        return
    sending.cancel()
    await sender.abandon(STOP_GRACE_S)


async def _tell(log: Log, pipe: Connection, ended: asyncio.Event) -> None:
    """Pass on what becomes known; from a thread, so that a slow reader delays no request."""
    over = False
    while not over:
        over = await sleep_unless(ended, REPORT_S)
        await asyncio.to_thread(pipe.send, log.take())


def main() -> None:
    """Work until the pipe ends."""
    ends = (asyncio.CancelledError, BrokenPipeError, ConnectionResetError)
    with (
        Connection(int(sys.argv[1])) as pipe,
        contextlib.suppress(*ends),
        asyncio.Runner(loop_factory=precise_loop) as runner,
    ):
        runner.run(_serve(pipe))


if __name__ == "__main__":
    main()
