"""How much batches slow each other, and how few of the SMs leave one at full speed.

As many lanes are loaded as are kept busy, as in service: one more up to the most and down again, so
that what drifts on the machine meanwhile falls on all alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from paldia_nodeagent.admin import TritonAdmin
from paldia_nodeagent.measure import Guard, answer, closed_loop

LANES_LEAST = 4
LANES_MOST = 8
_PAST_FULL = 2
"""Lanes beyond those that fill the device: it takes two points to tell demand from penalty."""
_LARGE_MOST_S = 0.1
"""The larger of the two batch sizes takes no longer than this, if a larger one was measured."""
_TOO_SLOW = 2.0
"""A cell may take so many times its share of the time, to have its few samples."""
SM_LADDER = (10, 25, 50, 75, 100)


def lanes_to_load(demand: float | None, lane_bytes: int, free_bytes: int) -> int:
    """Give how many lanes to measure with: past where they want more than there is.

    Args:
        demand: share of the device that one batch seems to take; None if nothing is known.
        lane_bytes: memory that a further lane may take.
        free_bytes: memory that is there for further ones.
    """
    wanted = math.floor(1 / demand) + _PAST_FULL if demand else LANES_LEAST
    fitting = 1 + free_bytes // max(1, lane_bytes)
    return max(1, min(max(LANES_LEAST, wanted), LANES_MOST, fitting))


def sizes_to_share(points: Sequence[tuple[int, float]]) -> list[int]:
    """Give the batch sizes to measure together: the smallest, and one that is worth batching."""
    large = [size for size, latency_s in points[1:] if latency_s <= _LARGE_MOST_S]
    return [points[0][0], *large[-1:]]


async def measure_slowdowns(
    admin: TritonAdmin,
    make: Callable[[int], Any],
    sizes: Sequence[int],
    lanes: int,
    *,
    load: Callable[[int], Awaitable[bool]],
    budget_s: float,
    guard: Guard,
    on_cell: Callable[[int, int, float], None],
) -> dict[int, tuple[float, ...]]:
    """Measure by batch size how much longer each of 1, 2, ... `lanes` takes than one alone.

    Args:
        admin: the Triton.
        make: gives the request for a batch size.
        sizes: batch sizes.
        lanes: the most batches at once.
        load: has so many lanes loaded; False if there is no room for them.
        budget_s: time for all of it, loading aside; once it is over, the way down is left out.
        guard: does the measuring of each cell.
        on_cell: told the batch size, how many run together, and the share that is done.

    Raises:
        NotServableError: the model failed.
    """
    requests = {size: make(size) for size in sizes}
    left_s, done, cells = budget_s, 0, 2 * lanes * len(sizes)

    async def with_lanes(callers: int) -> list[float]:
        nonlocal left_s, done
        seconds = []
        for size in sizes:
            on_cell(size, callers, done / cells)
            share_s = max(0.0, left_s) / (cells - done)
            call = partial(answer, admin, requests[size])
            samples, took_s = await guard(
                partial(closed_loop, call, callers, share_s, share_s * _TOO_SLOW)
            )
            seconds.append(middle_mean(samples))
            left_s, done = left_s - took_s, done + 1
        return seconds

    up: list[list[float]] = []
    while len(up) < lanes and await load(len(up) + 1):
        up.append(await with_lanes(len(up) + 1))
    down: list[list[float]] = []
    while len(down) < len(up) and left_s > 0 and await load(len(up) - len(down)):
        down.append(await with_lanes(len(up) - len(down)))
    # Each way against its own single batch, which only a whole one has.
    ways = [way for way in (up, down[::-1]) if len(way) == len(up)]
    return {
        size: tuple(
            statistics.fmean(way[at][index] / way[0][index] for way in ways)
            for at in range(len(up))
        )
        for index, size in enumerate(sizes)
    }


def middle_mean(samples: Sequence[float]) -> float:
    """Give the mean of the middle half: steady, and true where there are two kinds of turns."""
    ordered = sorted(samples)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


async def measure_sm_shares(
    launch: Callable[[int], Awaitable[float]], on_share: Callable[[int], None]
) -> list[tuple[int, float]]:
    """Measure a batch in processes that are held to ever more of the SMs.

    Args:
        launch: starts a process that is held to so many percent, and gives the seconds that a
            batch takes in it; it ends the process.
        on_share: told the share that is measured.
    """
    latencies = []
    for percent in SM_LADDER:
        on_share(percent)
        latencies.append((percent, await launch(percent)))
    return latencies
