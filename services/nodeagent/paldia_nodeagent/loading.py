"""Sees that a load will never end: Triton itself waits for ever, and ignores SIGTERM then.

A long load works: it has a processor, waits for one, reads or writes. A hang does none of
this. An endless loop looks like work, and only the limit of all loads ends it.
"""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from paldia.core.errors import NotServableError
from paldia_nodeagent import processes
from paldia_nodeagent.memory import Memory
from paldia_nodeagent.stillness import WorkWatch

_LOOK_EVERY_S = 0.25
# Triton asks after a stub that it ended itself sooner than this.
_STUB_ENDS_S = 2.0


class LoadHungError(NotServableError):
    """A load that doesn't end; the Triton it hangs in is of no more use."""


class LoadStalledError(LoadHungError):
    """A load in which nothing is done; given more time, it may turn out to have waited."""


async def guard(pid: int, stall_s: float, memory: Memory) -> NoReturn:
    """Watch a load in the Triton `pid` for as long as nothing is wrong with it.

    Args:
        pid: the Triton.
        stall_s: seconds without any work that make a hang.
        memory: what it may hold.

    Raises:
        LoadHungError: it can't end any more; LoadStalledError if it only stands still.
        NotServableError: it takes too much memory.
    """
    work = WorkWatch()
    dead_since_s: dict[int, float] = {}
    while True:
        now_s = time.monotonic()
        still_s = work.see(now_s, processes.work(pid))
        fates = processes.fates_of_stubs(pid)
        dead = {stub: code for stub, code in fates.items() if code is not None}
        dead_since_s = {stub: dead_since_s.get(stub, now_s) for stub in dead}
        for stub, since_s in dead_since_s.items():
            if now_s - since_s >= _STUB_ENDS_S:
                raise LoadHungError(f"its Python process ended {_told(dead[stub])} while loading")
        if still_s >= stall_s:
            raise LoadStalledError(
                f"it hangs: no processor used, nothing read or written for {still_s:.0f} s; if it "
                "waits on purpose, start the agent with a longer --stall-s"
            )
        if excess := memory.excess(processes.resident_bytes(pid)):
            raise NotServableError(excess)
        await asyncio.sleep(_LOOK_EVERY_S)


def _told(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by signal {-code}"
