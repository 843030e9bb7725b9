"""A GPU with its load, as plain immutable values, like all in `results`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class GpuFault:
    """A fault that the driver told of, by NVIDIA's number of its kind."""

    xid: int
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU with its load. None, or an empty text, is what it doesn't tell.

    `memory_utilisation` is the share of time in which its memory was read or written;
    `throttled_by` is empty while nothing keeps its clocks down, and `lost` while it answers.
    Energy and ECC errors count from the driver's start, `fault_count` from the agent's.
    """

    uuid: str
    name: str
    memory_bytes: int
    memory_used_bytes: int | None
    sm_utilisation: float | None
    power_watts: float | None
    index: int | None = None
    driver_version: str = ""
    cuda_version: str = ""
    compute_capability: str = ""
    mig: bool | None = None
    memory_utilisation: float | None = None
    energy_j: float | None = None
    temperature_celsius: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    throttled_by: tuple[str, ...] | None = None
    corrected_errors: int | None = None
    uncorrected_errors: int | None = None
    fault_count: int | None = None
    faults: tuple[GpuFault, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    lost: str = ""
