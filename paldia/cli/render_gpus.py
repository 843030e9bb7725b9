"""GPUs as a table: what is measured of each, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from paldia.cli.output import table
from paldia.client import Gpu, Node


def gpus(nodes: Sequence[Node]) -> list[RenderableType]:
    """Give a line for each GPU of all nodes, if there is any; what is unknown stays empty."""
    rows = [_row(node, gpu) for node in nodes for gpu in node.gpus]
    headings = (
        *(
            "NODE",
            "GPU",
            "NAME",
            ">SMS BUSY",
            ">MEMORY BUSY",
            ">MEMORY GB",
            ">WATTS",
            ">\N{DEGREE SIGN}C",
        ),
        *(">SM MHZ", ">PROCESSES", "HELD BACK BY", "TROUBLE"),
    )
    return [table(headings, rows)] if any(any(row[3:]) for row in rows) else []


def _row(node: Node, gpu: Gpu) -> tuple[str, ...]:
    capability = f" ({gpu.compute_capability})" if gpu.compute_capability else ""
    used = gpu.memory_used_bytes
    return (
        node.node_id,
        "" if gpu.index is None else str(gpu.index),
        f"{gpu.name}{capability}",
        "" if gpu.sm_utilisation is None else f"{gpu.sm_utilisation:.0%}",
        "" if gpu.memory_utilisation is None else f"{gpu.memory_utilisation:.0%}",
        "" if used is None else f"{used / 1e9:.1f}/{gpu.memory_bytes / 1e9:.1f}",
        "" if gpu.power_watts is None else f"{gpu.power_watts:.0f}",
        "" if gpu.temperature_celsius is None else f"{gpu.temperature_celsius:.0f}",
        "" if gpu.sm_clock_hz is None else f"{gpu.sm_clock_hz / 1e6:.0f}",
        "" if gpu.processes is None else str(len(gpu.processes)),
        ", ".join(gpu.throttled_by or ()),
        "; ".join(_trouble(gpu)),
    )


def _trouble(gpu: Gpu) -> list[str]:
    said = [f"lost: {gpu.lost}"] if gpu.lost else []
    if gpu.mig:
        said.append("split into MIG instances")
    if gpu.uncorrected_errors:
        said.append(f"{gpu.uncorrected_errors} uncorrected memory errors")
    if gpu.fault_count:
        newest = f", the last with XID {gpu.faults[-1].xid}" if gpu.faults else ""
        said.append(f"{gpu.fault_count} faults{newest}")
    return said
