"""Asks other workers for answers; connections are made when they are first needed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TypeVar

from paldia.core.errors import OverloadedError, PaldiaError
from paldia_frontend.exchange import frames
from paldia_frontend.exchange.frames import Ask, Frame, Kind
from paldia_frontend.exchange.link import Link

ANSWERS_AHEAD = 8
"""How many answers of a stream may be sent before their reader has taken any."""
_CONNECT_S = 1.0
_NUMBERS = (1 << 32) - 1


class PeerLostError(Exception):
    """The other worker is gone, or was never there: ask elsewhere."""


class Peers:
    """The other workers of this frontend."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Find their sockets in `folder`; one that leaves `most_bytes` unread is asked no more."""
        self._folder = folder
        self._most_bytes = most_bytes
        self._links: dict[int, asyncio.Task[Link]] = {}
        self._calls: dict[int, _Single | _Many] = {}
        self._numbers = itertools.count(1)

    async def infer(self, slot: int, asked: Ask) -> bytes:
        """Get one answer, serialised.

        Raises:
            PaldiaError: why there is none.
            PeerLostError: that worker is gone.
        """
        link = await self._link(slot)
        number, call = self._began(_Single(link))
        link.send(frames.ask(Kind.ASK, number, asked))
        try:
            return await call.answer
        finally:
            self._ended(number, call)

    async def stream(self, slot: int, asked: Ask) -> AsyncGenerator[bytes, None]:
        """Get any number of answers, serialised.

        Raises:
            PaldiaError: why there are none, or no more.
            PeerLostError: that worker is gone.
        """
        link = await self._link(slot)
        number, call = self._began(_Many(link))
        link.send(frames.ask(Kind.ASK_MANY, number, asked))
        try:
            while (item := await call.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
                link.send(frames.more(number, 1))
        finally:
            self._ended(number, call)

    async def close(self) -> None:
        """End all connections."""
        for opening in self._links.values():
            opening.cancel()
            if (link := _connected(opening)) is not None:
                link.close()
        await asyncio.gather(*self._links.values(), return_exceptions=True)

    def _began(self, call: _CallT) -> tuple[int, _CallT]:
        number = next(self._numbers) & _NUMBERS
        self._calls[number] = call
        return number, call

    def _ended(self, number: int, call: _Single | _Many) -> None:
        del self._calls[number]
        if not call.ended:
            call.link.send(frames.frame(Kind.CANCEL, number))

    async def _link(self, slot: int) -> Link:
        opening = self._links.get(slot)
        if opening is None:
            opening = self._links[slot] = asyncio.ensure_future(self._connect(slot))
        try:
            link = await asyncio.shield(opening)
        except (OSError, TimeoutError) as error:
            if self._links.get(slot) is opening:
                del self._links[slot]
            raise PeerLostError(str(error)) from error
        if link.unread_bytes > self._most_bytes:
            raise OverloadedError(
                f"the model's worker is {link.unread_bytes >> 20} MiB behind; try again"
            )
        return link

    async def _connect(self, slot: int) -> Link:
        async with asyncio.timeout(_CONNECT_S):
            _, link = await asyncio.get_running_loop().create_unix_connection(
                lambda: Link(self._take, self._lost),
                str(socket_of(self._folder, slot)),
            )
        return link

    def _take(self, link: Link, frame: Frame) -> None:
        call = self._calls.get(frame.call)
        # One that was cancelled meanwhile is no longer known.
        if call is None or call.link is not link:
            return
        if frame.kind is Kind.ANSWER:
            call.take(frame.body)
        elif frame.kind is Kind.END:
            call.end(None)
        elif frame.kind is Kind.FAILED:
            call.end(frames.failure(frame.body))

    def _lost(self, link: Link) -> None:
        for slot, opening in list(self._links.items()):
            if _connected(opening) is link:
                del self._links[slot]
        for call in self._calls.values():
            if call.link is link and not call.ended:
                call.end(PeerLostError("the worker is gone"))


class _Single:
    """A call that has one answer."""

    __slots__ = ("answer", "ended", "link")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.ended = False

    def take(self, body: bytes) -> None:
        self.ended = True
        if not self.answer.done():
            self.answer.set_result(body)

    def end(self, error: PaldiaError | PeerLostError | None) -> None:
        self.ended = True
        if not self.answer.done():
            self.answer.set_exception(error or PeerLostError("it ended without an answer"))


class _Many:
    """A call that has any number; no more are sent than may be, so `items` stays short."""

    __slots__ = ("ended", "items", "link")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.items: asyncio.Queue[bytes | PaldiaError | PeerLostError | None] = asyncio.Queue()
        self.ended = False

    def take(self, body: bytes) -> None:
        self.items.put_nowait(body)

    def end(self, error: PaldiaError | PeerLostError | None) -> None:
        self.ended = True
        self.items.put_nowait(error)


_CallT = TypeVar("_CallT", _Single, _Many)


def _connected(opening: asyncio.Task[Link]) -> Link | None:
    """Give the connection if it could be made."""
    if not opening.done() or opening.cancelled() or opening.exception() is not None:
        return None
    return opening.result()


def socket_of(folder: Path, slot: int) -> Path:
    """Where a worker listens for others."""
    return folder / f"{slot}.sock"
