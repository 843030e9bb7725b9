"""How much memory the process has, and how it gives some back."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes

import psutil

_M_MMAP_THRESHOLD = -3  # malloc.h
_LOOK_S, _TRIM_S = 0.1, 0.5
"""How long it is believed how much memory there is, and how long after some was given back."""
_TIDY_S = 5.0


class Memory:
    """The process's memory, and whether that is more than it should be."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._process = psutil.Process()
        self._is_scarce = False
        self._look_again_s = 0.0
        self._tidying: asyncio.TimerHandle | None = None

    def is_scarce(self) -> bool:
        """Whether there is, or was a little while ago, more than the limit."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + _LOOK_S
            if self._is_over():
                # Some of it may be free, and only kept.
                give_back_memory()
                self._look_again_s = now_s + _TRIM_S
            self._is_scarce = self._is_over()
        return self._is_scarce

    async def is_scarce_for(self, limit_s: float, step_s: float) -> bool:
        """Wait until it isn't, looking each `step_s`; whether it still is after `limit_s`."""
        while self.is_scarce():
            if limit_s <= 0:
                return True
            await asyncio.sleep(step_s)
            limit_s -= step_s
        return False

    def tidy_up_soon(self) -> None:
        """Give back, in a while, what is free."""
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_S, self._tidy_up)

    def _tidy_up(self) -> None:
        self._tidying = None
        give_back_memory()

    def _is_over(self) -> bool:
        return bool(self._process.memory_info().rss > self.limit_bytes)


def give_back_large_memory() -> None:
    """Have memory of 256 KiB and more go back to the system as soon as it is freed.

    glibc would raise that bound to the size of what is freed, and keep what is smaller: after some
    large messages a process would look as if it still held them.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 256 << 10)


def give_back_memory() -> None:
    """Give all memory that was freed back to the system; takes milliseconds for each GiB."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
