"""Rules for memory, load time and power; the first and last rest on judgement, and say so.

Memory: a process's own, the weights, and the activations alive at once in the largest batch. Load
time: starting a process, and the time that weights took to load where it was measured. Power: from
idle to rated by how much of the device the largest batch takes.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from paldia.catalog.tables import networks, rows
from paldia.core.types import Hardware

BYTES_PER_NUMBER = 4
MEGA = 1_000_000
PROCESS_BYTES = {True: 900 * MEGA, False: 200 * MEGA}
"""A server process with (True) and without a CUDA context and its libraries."""
ALIVE_SHARE = 0.25
"""Of all activations of a batch, those that must be kept at the same moment."""
PROCESS_START_S = {True: 6.0, False: 2.0}
"""Until a process could load weights; with a GPU it has CUDA and its libraries to load."""

_NONE: frozenset[str] = frozenset()


def memory_bytes(mparameters: float, mactivations: float, batch: int, *, gpu: bool) -> int:
    """Memory of one deployment that serves batches of up to `batch`."""
    numbers = mparameters + mactivations * batch * ALIVE_SHARE
    return int(PROCESS_BYTES[gpu] + BYTES_PER_NUMBER * MEGA * numbers)


@cache
def weights_s(mparameters: float, without: frozenset[str] = _NONE) -> float:
    """Seconds that weights take to load, in proportion to their number, as measured on a CPU."""
    loads = {row["network"]: float(row["load_ms"]) for row in rows("onnx_reference_core")}
    each_ms = [
        load_ms / networks()[name].mparameters
        for name, load_ms in loads.items()
        if name not in without
    ]
    return float(np.median(each_ms)) * mparameters / 1e3


def load_s(mparameters: float, *, gpu: bool) -> float:
    """Seconds from starting the process to its first answer."""
    return PROCESS_START_S[gpu] + weights_s(mparameters)


def busy_watts(machine: Hardware, share: float) -> float:
    """Power while the device is kept busy with batches that each take `share` of it."""
    return machine.idle_watts + (machine.rated_watts - machine.idle_watts) * min(1.0, share)
