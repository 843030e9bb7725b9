"""How fast the simulator is, and what it holds: tables, a text, figures for other programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.forecast_report import table
from bench.paper.cells import Cell

WANTED_RPS = 150_000


@dataclass(frozen=True, slots=True)
class Speed:
    """What a case's runs took.

    Attributes:
        seconds: processor time of each run; `planner_s`, of all its steps of the planner.
    """

    case: Cell
    requests: int
    batches: int
    steps: int
    seconds: tuple[float, ...]
    planner_s: tuple[float, ...]

    @property
    def rates(self) -> list[float]:
        """Requests per processor second of each run, ascending."""
        return sorted(self.requests / each for each in self.seconds)

    @property
    def batch_rows(self) -> float:
        """Requests in a batch, in the mean."""
        return self.requests / max(1, self.batches)

    @property
    def planner_share(self) -> float:
        """Share of the time that the planner's steps take, in the median run."""
        pairs = zip(self.planner_s, self.seconds, strict=True)
        return statistics.median(part / whole for part, whole in pairs)

    @property
    def step_ms(self) -> float:
        """Milliseconds that a step of the planner takes, in the median run."""
        return 1e3 * statistics.median(self.planner_s) / self.steps

    @property
    def rest_us(self) -> float:
        """Microseconds a batch that all but the planner takes, in the median run."""
        rest_s = [whole - part for whole, part in zip(self.seconds, self.planner_s, strict=True)]
        return 1e6 * statistics.median(rest_s) / max(1, self.batches)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory before a run, and the most that was seen during it."""

    case: Cell
    duration_s: float
    requests: int
    before_bytes: int
    peak_bytes: int

    @property
    def grown_bytes(self) -> int:
        """What the run added at its worst."""
        return self.peak_bytes - self.before_bytes


def name_of(case: Cell) -> str:
    """Name a case for people and for `--only`."""
    return f"{case.workload}/{case.trace}/{case.policy}"


def speed_table(speeds: Sequence[Speed]) -> str:
    """Lay out how fast each case is, and by what it is bound."""
    heads = (
        *("case", "requests", "a batch", "requests/CPU-s", "from - to"),
        *("planner", "ms a step", "rest: us a batch", "requests/CPU-s of the rest"),
    )
    rows = [
        (
            *(name_of(one.case), f"{one.requests:,}", f"{one.batch_rows:.2f}"),
            *(
                f"{statistics.median(one.rates):,.0f}",
                f"{one.rates[0]:,.0f} - {one.rates[-1]:,.0f}",
            ),
            *(f"{one.planner_share:.0%}", f"{one.step_ms:.2f}"),
            *(f"{one.rest_us:.1f}", f"{1e6 * one.batch_rows / one.rest_us:,.0f}"),
        )
        for one in speeds
    ]
    return table(heads, rows)


def memory_table(memories: Sequence[Memory]) -> str:
    """Lay out what runs of several lengths added to resident memory."""
    heads = ("trace", "requests", "before", "peak", "growth")
    rows = [
        (
            *(f"{one.duration_s:,.0f} s", f"{one.requests:,}"),
            *(f"{each / 2**20:.1f} MiB" for each in (one.before_bytes, one.peak_bytes)),
            f"{one.grown_bytes / 2**20:.1f} MiB",
        )
        for one in memories
    ]
    return table(heads, rows)


def figures(speeds: Sequence[Speed], memories: Sequence[Memory]) -> dict[str, Any]:
    """Give all figures, with units in their names."""
    return {
        "wanted_requests_per_cpu_s": WANTED_RPS,
        "speed": [
            {
                "workload": one.case.workload,
                "trace": one.case.trace,
                "load": one.case.load,
                "policy": one.case.policy,
                "requests": one.requests,
                "batches": one.batches,
                "steps": one.steps,
                "cpu_s": one.seconds,
                "planner_cpu_s": one.planner_s,
                "requests_per_cpu_s": statistics.median(one.rates),
            }
            for one in speeds
        ],
        "memory": [
            {
                "workload": one.case.workload,
                "trace": one.case.trace,
                "policy": one.case.policy,
                "duration_s": one.duration_s,
                "requests": one.requests,
                "before_bytes": one.before_bytes,
                "peak_bytes": one.peak_bytes,
            }
            for one in memories
        ],
    }


def write(out: Path, speeds: Sequence[Speed], memories: Sequence[Memory]) -> list[Path]:
    """Write all that was measured into a folder, and give the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "report.json", out / "report.md"]
    written[0].write_text(json.dumps(figures(speeds, memories), indent=1) + "\n")
    written[1].write_text(_text(speeds, memories))
    return written


def _text(speeds: Sequence[Speed], memories: Sequence[Memory]) -> str:
    parts = ["# The simulator: speed and memory\n"]
    if speeds:
        parts.append(
            "## Speed\n\nRequests per second of processor time, medians of "
            f"{len(speeds[0].seconds)} runs; wanted are {WANTED_RPS:,} for one model under "
            "`paldia`. A run has an event for each batch and a step of the planner for each "
            "simulated second, so it is fast where many requests share them.\n"
        )
        parts.append(speed_table(speeds) + "\n")
    if memories:
        parts.append(
            f"## Memory\n\n`{name_of(memories[0].case)}` at several lengths. *Before*: after a "
            "short run, with all code and data loaded.\n"
        )
        parts.append(memory_table(memories) + "\n")
    return "\n".join(parts)
