"""Which cells the evaluation has: the quick form and the full one.

A cell is one policy over one scenario; the scenarios of the cells that differ in nothing but
the policy are the same to the last arrival.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paldia import catalog
from paldia.core.baselines import POLICIES

ALL = "all-16"
"""The workload of the cells in which all models share the cluster."""
TRACES = ("azure-bursty", "wikipedia", "azure-llm-code", "poisson")
LOADS = (0.3, 0.6, 0.9)
QUICK_WORKLOADS = ("resnet50", "mobilenet_v2", "bert")
"""A middling, a light and a heavy model, for the dimensions that the quick form thins out."""
SLO_S = 0.2


class HardwareSet(enum.Enum):
    """Which machines there are."""

    PAPER = "paper-6"
    T4 = "paper-6+g4dn"
    FAILING = "paper-6-failing"


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy over one scenario; `full` runs whole traces in place of 15 minutes."""

    workload: str
    trace: str
    load: float
    hardware_set: HardwareSet
    policy: str
    full: bool = False
    seed: int = 0

    def key(self, fingerprint: str) -> str:
        """Name the cell and the code it ran on, for resuming."""
        facts = json.dumps(dataclasses.asdict(self), default=lambda value: value.value)
        return hashlib.sha256(f"{fingerprint} {facts}".encode()).hexdigest()[:24]


def quick() -> Iterator[Cell]:
    """Give the quick form: every workload at one load, the other dimensions on three."""
    for workload in catalog.workloads():
        yield from _over_policies(workload, 0.6, HardwareSet.PAPER, full=False)
    for workload in QUICK_WORKLOADS:
        for load in (0.3, 0.9):
            yield from _over_policies(workload, load, HardwareSet.PAPER, full=False)
        for hardware_set in (HardwareSet.T4, HardwareSet.FAILING):
            yield from _over_policies(workload, 0.6, hardware_set, full=False)
    yield from _over_policies(ALL, 0.6, HardwareSet.PAPER, full=False)


def full() -> Iterator[Cell]:
    """Give the full form: everything with everything, over whole traces."""
    for workload in (*catalog.workloads(), ALL):
        for load in LOADS:
            for hardware_set in HardwareSet:
                yield from _over_policies(workload, load, hardware_set, full=True)


def _over_policies(
    workload: str, load: float, hardware_set: HardwareSet, *, full: bool
) -> Iterator[Cell]:
    for trace in TRACES:
        for policy in POLICIES:
            yield Cell(workload, trace, load, hardware_set, policy.name, full)


def fingerprint() -> str:
    """Digest of everything that a cell's figures depend on."""
    root = Path(__file__).parents[2]
    folders = ("paldia/core", "paldia/sim", "paldia/catalog", "bench/paper", "bench/data")
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in {".py", ".yaml", ".csv"}:
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
