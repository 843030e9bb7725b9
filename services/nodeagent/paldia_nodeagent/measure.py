"""How long one batch takes, by batch size: calls one after another, the median of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from paldia.core.errors import NotServableError
from paldia.kit.rpc import DEFAULT_MESSAGE_LIMIT_BYTES
from paldia_nodeagent.admin import TritonAdmin

_WARM_UPS = 2
_SAMPLES_LEAST = 3
_SAMPLES_MOST = 200
_CALL_LIMIT_S = 60.0


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
) -> list[Point]:
    """Measure `sizes` in order, as many as fit.

    Args:
        admin: the Triton.
        make: gives the request for a batch size.
        sizes: batch sizes, ascending; the first is always measured.
        budget_s: time for all of them, shared evenly; 3 samples each while it lasts.
        latency_cap_s: no larger batch once one takes longer than this; 0 for no cap.

    Raises:
        NotServableError: the model failed.
    """
    end_s = time.monotonic() + budget_s
    points: list[Point] = []
    for index, size in enumerate(sizes):
        request = make(size)
        left_s = end_s - time.monotonic()
        too_large = request.ByteSize() > DEFAULT_MESSAGE_LIMIT_BYTES
        if points and (left_s <= 0 or too_large):
            break
        points.append(await _point(admin, size, request, end_s, left_s / (len(sizes) - index)))
        if 0 < latency_cap_s < points[-1].latency_s:
            break
    return points


async def _point(
    admin: TritonAdmin, size: int, request: Any, end_s: float, share_s: float
) -> Point:
    share_end_s = time.monotonic() + share_s
    for _ in range(_WARM_UPS):
        if time.monotonic() < share_end_s:
            await answer(admin, request)
    samples: list[float] = []
    while len(samples) < _SAMPLES_MOST:
        samples.append(await answer(admin, request))
        now_s = time.monotonic()
        if now_s >= end_s or (now_s >= share_end_s and len(samples) >= _SAMPLES_LEAST):
            break
    return Point(size, statistics.median(samples), len(samples))
