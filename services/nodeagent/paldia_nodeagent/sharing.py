"""How much batches slow each other, and how few of the SMs leave one at full speed.

As many lanes are loaded as are kept busy, as in service: one more up to the most and down again, so
that what drifts on the machine meanwhile falls on all alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
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
    alone_s: Mapping[int, float],
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
        alone_s: seconds that one batch takes by itself, of each batch size.
        lanes: the most batches at once.
        load: has so many lanes loaded; False if there is no room for them.
        budget_s: time for all of it, loading aside; once it is over, the way down is left out.
        guard: does the measuring of each cell.
        on_cell: told the batch size, how many run together, and the share that is done.

    Raises:
        NotServableError: the model failed.
    """
    requests = {size: make(size) for size in alone_s}
    weights = [weights_of(alone_s.values(), callers) for callers in range(1, lanes + 1)]
    whole = ahead = 2 * sum(map(sum, weights))
    left_s = budget_s

    async def with_lanes(callers: int) -> list[float]:
        nonlocal left_s, ahead
        seconds = []
        for size, weight in zip(alone_s, weights[callers - 1], strict=True):
            on_cell(size, callers, 1 - ahead / whole)
            share_s = max(0.0, left_s) * weight / ahead
            call = partial(answer, admin, requests[size])
            samples, took_s = await guard(
                partial(closed_loop, call, callers, share_s, share_s * _TOO_SLOW)
            )
            seconds.append(middle_mean(samples))
            left_s, ahead = left_s - took_s, ahead - weight
        return seconds

    up: list[list[float]] = []
    while len(up) < lanes and await load(len(up) + 1):
        up.append(await with_lanes(len(up) + 1))
    ahead = sum(map(sum, weights[: len(up)]))
    down: list[list[float]] = []
    while len(down) < len(up) and left_s > 0 and await load(len(up) - len(down)):
        down.append(await with_lanes(len(up) - len(down)))
    # Only a whole way has the single batch that it is to be compared with.
    ways = [way for way in (up, down[::-1]) if len(way) == len(up)]
    return {
        size: slowdowns([[row[at] for row in way] for way in ways])
        for at, size in enumerate(alone_s)
    }


def weights_of(alone_s: Collection[float], callers: int) -> list[float]:
    """Give the part of the time that each batch size is measured for, so many at once.

    As many rounds for each, as far as batches that want more than there is take turns, and
    some time that is the same for all: short batches vary more.
    """
    return [callers * seconds + max(alone_s) for seconds in alone_s]


def slowdowns(ways: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Give the slowdown of each of 1, 2, ... batches, from the seconds they took on each way.

    All ways together are compared with all their single batches: those are the shortest, and one
    that was disturbed would spoil all of its way.
    """
    together_s = [sum(seconds) for seconds in zip(*ways, strict=True)]
    return tuple(seconds / together_s[0] for seconds in together_s)


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
