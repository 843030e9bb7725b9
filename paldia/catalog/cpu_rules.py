"""Rules for the time of a batch on a machine without a GPU.

Every network of the catalog was measured on one core of a reference CPU; a machine's core is
faster or slower by its `core_speed`. A batch gains nothing there, so items are divided over
instances rather than batched. An instance gets one thread, the cheapest way to use a core, and
more only where one item would otherwise take more than half of the SLO the paper uses; they scale
as measured on two.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from paldia.catalog.shape import Shape
from paldia.catalog.tables import Costs, Points, core_tables, networks, rows

TARGET_S = 0.1
"""Half of an SLO of 200 ms: as long to wait as to run."""
LARGE_BATCH = 8
"""From here on starting and joining threads counts for little, and what is left is contention."""

_NONE: frozenset[str] = frozenset()


def _parallel_loss(row: dict[str, str]) -> float:
    return 2 * float(row["two_threads_ms"]) / float(row["one_thread_ms"]) - 1


@cache
def serial_share(without: frozenset[str] = _NONE) -> float:
    """Share of a batch's work that more threads don't shorten (Amdahl), from runs on two."""
    losses = [_parallel_loss(row) for row in rows("onnx_threads") if row["model"] not in without]
    return max(0.0, float(np.median(losses)))


@cache
def penalty() -> float:
    """What a second busy core costs the first: their large batches' loss on two threads."""
    table = rows("onnx_threads")
    losses = [_parallel_loss(row) for row in table if int(row["batch"]) >= LARGE_BATCH]
    return max(0.0, float(np.median(losses)))


def threads_factor(threads: int, without: frozenset[str] = _NONE) -> float:
    """What a batch takes on `threads` cores against one."""
    serial = serial_share(without)
    return serial + (1 - serial) / threads


def fitted_core_ms(costs: Costs, without: frozenset[str] = _NONE) -> float:
    """Milliseconds one item takes on one reference core, by its costs.

    A fit on multiply-accumulates and operators over the networks measured.
    """
    known = [
        (networks()[name], points[0][1])
        for (name, threads), points in core_tables().items()
        if threads == 1 and name not in without
    ]
    amounts = np.array([[it.gmacs, it.operators] for it, _ in known])
    taken = np.array([ms for _, ms in known])
    weights = np.linalg.lstsq(amounts / taken[:, None], np.ones(len(known)), rcond=None)[0]
    return float(np.array([costs.gmacs, costs.operators]) @ weights)


def core_points(network: str, costs: Costs) -> tuple[Points, bool]:
    """Give (batch, milliseconds) on one reference core, and whether they were measured."""
    known = core_tables().get((network, 1))
    if known:
        return known, True
    each = Shape(0.0, fitted_core_ms(costs), 1.0)
    return tuple((batch, each.latency_ms(batch)) for batch in (1, 2, 4, 8, 16)), False


def threads_for(one_core_s: float, cores: int) -> int:
    """Fewest threads (1, 2, 4, ...) that run one item within the target; all cores if none do."""
    threads = 1
    while threads < cores and one_core_s * threads_factor(threads) > TARGET_S:
        threads *= 2
    return min(threads, cores)
