"""How long batches take: calls in a closed loop, one after another or several at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc

from paldia.core.errors import NotServableError
from paldia.kit.rpc import DEFAULT_MESSAGE_LIMIT_BYTES
from paldia_nodeagent.admin import TritonAdmin

Result = TypeVar("Result")

_WARM_UPS = 2
_SAMPLES_LEAST = 3
_SAMPLES_MOST = 200
_CALL_LIMIT_S = 60.0


class Guard(Protocol):
    """Does a piece of work, anew if it was disturbed."""

    async def __call__(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Give what `work` gives when it isn't disturbed."""


@dataclass(frozen=True, slots=True)
class Point:
    """Median seconds that a batch takes alone, over so many samples."""

    batch_size: int
    latency_s: float
    samples: int


async def answer(admin: TritonAdmin, request: Any, limit_s: float = _CALL_LIMIT_S) -> float:
    """Call once; give the seconds it took.

    Raises:
        NotServableError: it failed, with the model's reason.
    """
    began_s = time.monotonic()
    try:
        await admin.infer(request, limit_s)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise NotServableError(f"no answer within {limit_s:g} s") from error
        raise NotServableError(
            f"a measuring request failed: {error.details()}; if its inputs, made from the "
            "model's configuration, mean nothing to the model, give a model_warmup sample there"
        ) from error
    return time.monotonic() - began_s


async def measure(
    admin: TritonAdmin,
    make: Callable[[int], Any],
    sizes: Sequence[int],
    *,
    budget_s: float,
    latency_cap_s: float,
    guard: Guard,
    on_size: Callable[[int], None],
) -> list[Point]:
    """Measure `sizes` in order, as many as fit.

    Args:
        admin: the Triton.
        make: gives the request for a batch size.
        sizes: batch sizes, ascending; the first is always measured.
        budget_s: time for all of them, shared evenly; 3 samples each while it lasts.
        latency_cap_s: no larger batch once one takes longer than this; 0 for no cap.
        guard: does the measuring of each.
        on_size: told which one is measured.

    Raises:
        NotServableError: the model failed.
    """
    left_s = budget_s
    points: list[Point] = []
    for index, size in enumerate(sizes):
        request = make(size)
        too_large = request.ByteSize() > DEFAULT_MESSAGE_LIMIT_BYTES
        if points and (left_s <= 0 or too_large):
            break
        on_size(size)
        share_s = left_s / (len(sizes) - index)
        point, took_s = await guard(partial(_point, admin, size, request, share_s, left_s))
        left_s -= took_s
        points.append(point)
        if 0 < latency_cap_s < point.latency_s:
            break
    return points


async def _point(
    admin: TritonAdmin, size: int, request: Any, share_s: float, most_s: float
) -> tuple[Point, float]:
    """Measure one size; give the time that it took, too."""
    samples, took_s = await closed_loop(lambda: answer(admin, request), 1, share_s, most_s)
    return Point(size, statistics.median(samples), len(samples)), took_s


async def closed_loop(
    call: Callable[[], Awaitable[float]], callers: int, share_s: float, most_s: float
) -> tuple[list[float], float]:
    """Have so many callers call, each again as soon as it has an answer.

    Args:
        call: calls once, and gives the seconds it took.
        callers: how many call at once.
        share_s: time after which they stop, but for a few samples each.
        most_s: time after which they stop with what there is, one sample at least.

    Returns:
        The seconds that calls took while all of the callers called, and those that all took.
    """
    loop = _Loop(call, callers, share_s, most_s, time.monotonic())
    tasks = [asyncio.create_task(loop.caller()) for _ in range(callers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return loop.samples, time.monotonic() - loop.began_s


@dataclass
class _Loop:
    call: Callable[[], Awaitable[float]]
    callers: int
    share_s: float
    most_s: float
    began_s: float
    samples: list[float] = field(default_factory=list)
    warm: int = 0
    over: bool = False

    async def caller(self) -> None:
        for _ in range(_WARM_UPS):
            if time.monotonic() < self.began_s + self.share_s:
                await self.call()
        self.warm += 1
        while not self.over:
            all_call = self.warm == self.callers
            seconds = await self.call()
            # Once one has stopped, fewer call than should.
            if all_call and not self.over:
                self.samples.append(seconds)
                self.over = self._is_over()

    def _is_over(self) -> bool:
        elapsed_s, count = time.monotonic() - self.began_s, len(self.samples)
        if count >= _SAMPLES_MOST * self.callers or elapsed_s >= self.most_s:
            return True
        return elapsed_s >= self.share_s and count >= _SAMPLES_LEAST * self.callers
