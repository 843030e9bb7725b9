"""What the agent looks after all the time: that there is a Triton, the slowdown's process, logs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from paldia.kit.observability import logger
from paldia_nodeagent.logs import LogRelay
from paldia_nodeagent.runtime import RuntimeFinder
from paldia_nodeagent.throttle import Throttle

_CHECK_EVERY_S = 1.0
_LOOK_EVERY = 15
"""Checks from one look for a missing Triton to the next."""


async def look_for_triton(finder: RuntimeFinder) -> None:
    """Look once, and say what was found or is missing."""
    await asyncio.to_thread(finder.look)
    if finder.problem:
        logger().error("triton.missing", problem=finder.problem)
    else:
        logger().info("triton.found", tritonserver=str(finder.runtime().tritonserver))


async def keep_up(
    finder: RuntimeFinder, throttle: Throttle, logs: LogRelay, *, on_change: Callable[[], None]
) -> None:
    """Look until there is a Triton, keep the slowdown going, pass on logs; until cancelled."""
    for check in itertools.count(1):
        await asyncio.sleep(_CHECK_EVERY_S)
        throttle.check()
        logs.follow()
        if not finder.found and check % _LOOK_EVERY == 0:
            await look_for_triton(finder)
            on_change()
