"""Answers what other workers ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from paldia.core.errors import InternalError, PaldiaError
from paldia.kit.observability import logger
from paldia_frontend.exchange import frames
from paldia_frontend.exchange.frames import Ask, Frame, Kind
from paldia_frontend.exchange.link import Link
from paldia_frontend.exchange.peers import ANSWERS_AHEAD, socket_of


class Answerer(Protocol):
    """Gives answers; both raise PaldiaError."""

    async def answer(self, asked: Ask) -> bytes:
        """Give one answer, serialised."""

    def answers(self, asked: Ask) -> AsyncGenerator[bytes, None]:
        """Give any number of answers, serialised."""


class Inbox:
    """Serves the other workers' connections."""

    def __init__(self, answerer: Answerer) -> None:
        """Let `answerer` answer."""
        self._answerer = answerer
        self._calls: dict[tuple[Link, int], _Call] = {}
        self._links: set[Link] = set()

    @asynccontextmanager
    async def serve(self, folder: Path, slot: int) -> AsyncIterator[None]:
        """Listen while the body runs."""
        path = socket_of(folder, slot)
        # A worker before that was killed has left its own.
        path.unlink(missing_ok=True)
        server = await asyncio.get_running_loop().create_unix_server(self._open, str(path))
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)
            for link in list(self._links):
                link.close()

    async def idle(self, limit_s: float) -> None:
        """Wait until nothing is asked any more, but no longer than `limit_s`."""
        if tasks := [call.task for call in self._calls.values()]:
            await asyncio.wait(tasks, timeout=limit_s)

    def _open(self) -> Link:
        link = Link(self._take, self._lost)
        self._links.add(link)
        return link

    def _lost(self, link: Link) -> None:
        self._links.discard(link)
        for (of, _), call in list(self._calls.items()):
            if of is link:
                call.task.cancel()

    def _take(self, link: Link, frame: Frame) -> None:
        key = link, frame.call
        if frame.kind is Kind.ASK or frame.kind is Kind.ASK_MANY:
            asked = frames.asked_by(frame.body)
            call = _Call()
            work = self._one if frame.kind is Kind.ASK else self._many
            call.task = asyncio.get_running_loop().create_task(
                self._end_well(link, frame.call, work(link, frame.call, asked, call))
            )
            self._calls[key] = call
            call.task.add_done_callback(lambda _: self._calls.pop(key, None))
        elif known := self._calls.get(key):
            if frame.kind is Kind.CANCEL:
                known.task.cancel()
            elif frame.kind is Kind.MORE:
                known.allow(frames.count_of(frame.body))

    async def _one(self, link: Link, number: int, asked: Ask, call: _Call) -> None:
        link.send(frames.frame(Kind.ANSWER, number, await self._answerer.answer(asked)))

    async def _many(self, link: Link, number: int, asked: Ask, call: _Call) -> None:
        async with aclosing(self._answerer.answers(asked)) as answers:
            async for answer in answers:
                await call.wait()
                link.send(frames.frame(Kind.ANSWER, number, answer))
        link.send(frames.frame(Kind.END, number))

    async def _end_well(self, link: Link, number: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except PaldiaError as error:
            link.send(frames.failed(number, error))
        except Exception as error:
            logger().exception("worker.answer_failed", exc_info=error)
            reason = "an internal error; the frontend's log has the details"
            link.send(frames.failed(number, InternalError(reason)))


class _Call:
    """A call under way, and how many answers more its reader has room for."""

    __slots__ = ("_allowed", "_changed", "task")
    task: asyncio.Task[None]

    def __init__(self) -> None:
        self._allowed = ANSWERS_AHEAD
        self._changed = asyncio.Event()

    def allow(self, count: int) -> None:
        self._allowed += count
        self._changed.set()

    async def wait(self) -> None:
        """Wait for room for one answer, and take it."""
        while self._allowed <= 0:
            self._changed.clear()
            await self._changed.wait()
        self._allowed -= 1
