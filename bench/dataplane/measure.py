"""One contender with one workload: started, its answers checked, loaded, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from bench import sending
from bench.dataplane.contenders import BESIDE, SYSTEM, TRITON, Contender, Served
from bench.dataplane.workloads import Workload
from bench.processes import CpuMeter
from bench.sending import Target
from paldia.core.errors import InternalError, UnavailableError

CHECKED = 48
"""Requests that are sent at once, so that those which merge are told apart again."""
CHECK_LIMIT_S = 60.0
DISTINCT = 8
"""Different requests that the load is made of."""
WARMING_S = 1.0
_OVERHEAD = "cpu_us_per_request"


@dataclass(frozen=True, slots=True)
class Pilot:
    """What was found out before anything is measured: the most that was seen, and how."""

    peak_rps: float
    callers: int


def pilot(contender: Contender, workload: Workload, folder: Path, seconds: float) -> Pilot:
    """Try each number of callers; give the one that most requests were answered with."""
    with _serving(contender, workload, folder) as (_, target):
        found = [
            Pilot(sending.closed(target, callers, seconds)["answered_rps"], callers)
            for callers in workload.callers
        ]
    return max(found, key=lambda it: it.peak_rps)


def visit(
    contender: Contender,
    workload: Workload,
    folder: Path,
    *,
    callers: int,
    rate_rps: float,
    seconds: float,
) -> dict[str, Any]:
    """Measure latencies at a rate, then the peak with so many callers; give the figures.

    Raises:
        InternalError: an answer was wrong.
    """
    with _serving(contender, workload, folder) as (served, target):
        calm = sending.open_loop(target, rate_rps, seconds, warmup_s=WARMING_S)
        meter = CpuMeter(served.groups)
        meter.start()
        peak = sending.closed(target, callers, seconds)
        used_s = meter.used_s()
    return figures(peak, calm, used_s)


def figures(peak: dict[str, Any], calm: dict[str, Any], used_s: dict[str, float]) -> dict[str, Any]:
    """Put a visit together.

    Args:
        peak: the closed loop's report.
        calm: the open loop's.
        used_s: CPU seconds by group over the closed loop.
    """
    answered = max(1, peak["answered"])
    each_us = {name: used_s.get(name, 0.0) / answered * 1e6 for name in (SYSTEM, TRITON, BESIDE)}
    return {
        "peak_rps": peak["answered_rps"],
        "cpu_us_per_request": each_us[SYSTEM],
        "triton_cpu_us_per_request": each_us[TRITON],
        "beside_cpu_us_per_request": each_us[BESIDE],
        "load_cpu_us_per_request": peak["overhead"][_OVERHEAD],
        "rate_rps": calm["offered_rps"],
        "p50_ms": calm["p50_ms"],
        "p99_ms": calm["p99_ms"],
        "kept_up": calm["kept_up"],
        "errors": sum(it["offered"] - it["answered"] for it in (peak, calm)),
    }


@contextmanager
def _serving(
    contender: Contender, workload: Workload, folder: Path
) -> Iterator[tuple[Served, Target]]:
    folder.mkdir(parents=True, exist_ok=True)
    requests = workload.write_requests(folder / "requests.json", DISTINCT)
    with contender.serve(workload, folder) as served:
        asyncio.run(check(served.address, workload))
        yield served, Target(served.address, workload.model, requests, folder / "load")


async def check(address: str, workload: Workload) -> None:
    """Send different requests at once and compare every answer.

    Raises:
        InternalError: one is wrong.
        UnavailableError: one failed.
    """
    async with InferenceServerClient(address) as client:

        async def is_right(sent: np.ndarray[Any, Any]) -> bool:
            tensor = InferInput(workload.input, [*sent.shape], workload.datatype)
            tensor.set_data_from_numpy(sent)
            try:
                answer = await client.infer(workload.model, [tensor], client_timeout=CHECK_LIMIT_S)
            except InferenceServerException as error:
                raise UnavailableError(f"{workload.model} at {address}: {error}") from error
            return workload.is_right(sent, answer.as_numpy(workload.output))

        right = await asyncio.gather(*map(is_right, workload.requests(CHECKED, seed=1)))
    if not all(right):
        raise InternalError(
            f"{right.count(False)} of {CHECKED} answers of {workload.model} at {address} are wrong"
        )
