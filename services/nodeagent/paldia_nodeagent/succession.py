"""One process takes another's place: brought up beside it, and the other leaves in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from paldia_nodeagent.triton import TritonProcess

Successor = asyncio.Task[TritonProcess]


class Succession:
    """The process that is to take over from the one that serves, and those that are leaving."""

    def __init__(self, drain_s: float, on_done: Callable[[], None]) -> None:
        """Give callers `drain_s` seconds to leave; `on_done` is called when one is there."""
        self._drain_s = drain_s
        self._on_done = on_done
        self._successor: Successor | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> bool:
        """Whether one is being brought up, or is there and hasn't been taken."""
        return self._successor is not None

    def begin(self, bring_up: Coroutine[None, None, TritonProcess]) -> None:
        """Bring one up."""
        self._successor = asyncio.create_task(bring_up)
        self._successor.add_done_callback(lambda _: self._on_done())

    def take(self) -> Successor | None:
        """Give the one that is being brought up, to be awaited; None if there is none."""
        successor, self._successor = self._successor, None
        return successor

    def take_done(self) -> Successor | None:
        """Give it once it is there or has failed."""
        return self.take() if self._successor is not None and self._successor.done() else None

    def dismiss(self, triton: TritonProcess) -> None:
        """End a process that another has taken over from, once callers have left it."""
        leaving = asyncio.create_task(self._leave(triton))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, triton: TritonProcess) -> None:
        try:
            await asyncio.sleep(self._drain_s)
            await triton.end()
        finally:
            await triton.kill()

    async def end(self) -> None:
        """End all of them: the successor at once, the others when their callers have left."""
        if (successor := self.take()) is not None:
            successor.cancel()
            await asyncio.wait({successor})
            if not successor.cancelled() and successor.exception() is None:
                await successor.result().kill()
        if self._leaving:
            await asyncio.wait(self._leaving)
