"""GPUs from protobuf to the SDK's results."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from paldia.api.v1 import types_pb2 as pb
from paldia.client.gpus import Gpu, GpuFault, GpuProcess


def gpu(card: pb.Gpu, load: pb.GpuUtilisation | None) -> Gpu:
    """Decode a GPU; `load` is what was reported of it last, if anything was."""
    load = load or pb.GpuUtilisation()
    limits, faults, processes = (
        _optional(load, field) for field in ("throttling", "faults", "processes")
    )
    return Gpu(
        uuid=card.uuid,
        name=card.name,
        memory_bytes=card.memory_bytes,
        memory_used_bytes=_optional(load, "memory_used_bytes"),
        sm_utilisation=_optional(load, "sm"),
        power_watts=_optional(load, "power_watts"),
        index=_optional(card, "index"),
        driver_version=card.driver_version,
        cuda_version=card.cuda_version,
        compute_capability=card.compute_capability,
        mig=_optional(card, "mig"),
        memory_utilisation=_optional(load, "memory"),
        energy_j=_optional(load, "energy_joules"),
        temperature_celsius=_optional(load, "temperature_celsius"),
        sm_clock_hz=_optional(load, "sm_clock_hertz"),
        memory_clock_hz=_optional(load, "memory_clock_hertz"),
        throttled_by=None if limits is None else tuple(limits.reasons),
        corrected_errors=_optional(load, "corrected_errors"),
        uncorrected_errors=_optional(load, "uncorrected_errors"),
        fault_count=None if faults is None else faults.count,
        faults=tuple(map(_fault, faults.recent)) if faults else (),
        processes=None if processes is None else tuple(map(_process, processes.processes)),
        lost=load.lost,
    )


def _fault(message: pb.GpuFault) -> GpuFault:
    seen_at = message.seen_at.ToDatetime(UTC) if message.HasField("seen_at") else None
    return GpuFault(message.xid, seen_at)


def _process(message: pb.GpuProcess) -> GpuProcess:
    return GpuProcess(message.pid, _optional(message, "memory_bytes"))


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None
