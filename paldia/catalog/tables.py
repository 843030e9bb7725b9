"""The tables of known figures beside this module, each with its source in its first lines."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

DATA = Path(__file__).parent / "data"
Points = tuple[tuple[int, float], ...]


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """Give the rows of the table `name` as texts by column."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return tuple(csv.DictReader(line for line in lines if not line.startswith("#")))


@dataclass(frozen=True, slots=True)
class Costs:
    """What one item costs a network.

    Attributes:
        kind: `vision` or `language`: which rules hold.
        gmacs: thousand million multiply-accumulates.
        mactivations: million values that convolutions and matrix products put out.
        mparameters: million weights.
        operators: what a framework launches for one batch, whatever its size.
    """

    kind: str
    gmacs: float
    mactivations: float
    mparameters: float
    operators: int


@cache
def networks() -> Mapping[str, Costs]:
    """Give each known network's costs."""
    return MappingProxyType(
        {
            row["network"]: Costs(
                row["kind"],
                float(row["gmacs"]),
                float(row["mactivations"]),
                float(row["mparameters"]),
                int(row["operators"]),
            )
            for row in rows("networks")
        }
    )


@cache
def gpu_tables() -> Mapping[tuple[str, str], Points]:
    """Give published FP32 tables by (network, GPU): (batch, milliseconds) by ascending batch."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows("nvidia_dle_fp32"):
        point = int(row["batch"]), float(row["latency_ms"])
        found.setdefault((row["network"], row["gpu"]), []).append(point)
    return MappingProxyType({key: tuple(points) for key, points in found.items()})


@cache
def shared_runs() -> Mapping[tuple[str, int, int], float]:
    """Give milliseconds on a V100 by (network, batch, percent of the SMs), run by TensorRT."""
    return MappingProxyType(
        {
            (row["network"], int(row["batch"]), int(row["sm_percent"])): float(row["gpu_ms"])
            for row in rows("igniter_v100")
        }
    )


@cache
def core_tables() -> Mapping[tuple[str, int], Points]:
    """Give (batch, milliseconds) by (network, threads) on the reference CPU's cores."""
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in rows("onnx_reference_core"):
        point = int(row["batch"]), float(row["latency_ms"])
        found.setdefault((row["network"], int(row["threads"])), []).append(point)
    return MappingProxyType({key: tuple(points) for key, points in found.items()})
