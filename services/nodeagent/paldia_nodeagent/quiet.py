"""Measures only while the models that serve on this node leave it alone.

What a Triton computes is seen from its own counts, so this holds for any device. Work that
traffic comes upon is stopped and begun anew later; the time that this may cost is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from paldia.core.errors import UnavailableError

Result = TypeVar("Result")

BUSY_SHARE = 0.05
"""A node whose models compute for more than this share of the time serves."""
LOOK_S = 0.25
_DISTURBED = "the node serves requests, and measuring would slow them"


class Quiet:
    """The patience of one measurement."""

    def __init__(
        self,
        busy_s: Callable[[], Awaitable[float]],
        *,
        patience_s: float,
        insists: bool,
        on_wait: Callable[[bool], None],
    ) -> None:
        """Spend `patience_s` seconds at most on waiting, and on work that was given up.

        Args:
            busy_s: seconds that the node's serving models have computed so far.
            patience_s: how long it may take until they leave the node alone.
            insists: whether work is done all the same once patience is over.
            on_wait: told when waiting begins, and when it ends.
        """
        self._busy_s = busy_s
        self._left_s = patience_s
        self._insists = insists
        self._on_wait = on_wait
        self._seen: tuple[float, float] | None = None

    async def undisturbed(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Give what `work` gives, done from begin to end while nothing is served.

        Raises:
            UnavailableError: the node served for too long.
        """
        while True:
            await self._silence()
            began_s = time.monotonic()
            task = asyncio.create_task(work())
            try:
                while not task.done() and self._minds():
                    await asyncio.wait({task}, timeout=LOOK_S)
                    if await self._is_busy():
                        break
                else:
                    return await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self._left_s -= time.monotonic() - began_s
            if not self._insists and self._left_s <= 0:
                # It may be silent whenever it is looked at, and never for long enough.
                raise UnavailableError(_DISTURBED)
            # The next look is a long one: a moment later nothing would be seen.
            self._seen = None

    def _minds(self) -> bool:
        return not self._insists or self._left_s > 0

    async def _silence(self) -> None:
        """Wait until nothing is served."""
        if not self._minds():
            return
        waits = False
        while await self._is_busy():
            if not waits:
                self._on_wait(waits := True)
            began_s = time.monotonic()
            await asyncio.sleep(LOOK_S)
            self._left_s -= time.monotonic() - began_s
            if self._left_s > 0:
                continue
            if self._insists:
                break
            raise UnavailableError(_DISTURBED)
        if waits:
            self._on_wait(False)

    async def _is_busy(self) -> bool:
        """Whether models computed since the last look; the first look takes two."""
        if self._seen is None:
            self._seen = time.monotonic(), await self._busy_s()
            await asyncio.sleep(LOOK_S)
        before_s, busy_before_s = self._seen
        self._seen = now_s, busy_s = time.monotonic(), await self._busy_s()
        # In a moment that is too short a single request would look like traffic.
        return busy_s - busy_before_s > BUSY_SHARE * max(now_s - before_s, LOOK_S)
