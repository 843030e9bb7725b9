"""How much processes grow: resident memory at the end against that after they settled. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SETTLING_S = 300.0
WINDOW_S = 30.0
GROWTH_PCT = 3.0
"""Less than so much is wanted."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A process's resident memory over time, in seconds from the start and in bytes."""

    name: str
    times_s: Sequence[float]
    held_bytes: Sequence[int]

    def median_bytes(self, from_s: float, to_s: float) -> float | None:
        """Give the median between two times; None if it wasn't there then."""
        pairs = zip(self.times_s, self.held_bytes, strict=True)
        held = [held for at_s, held in pairs if from_s <= at_s <= to_s]
        return statistics.median(held) if held else None


def settling_s(duration_s: float) -> float:
    """Give the time that processes may grow in: five minutes, or a sixth of a shorter run."""
    return min(SETTLING_S, duration_s / 6)


def growth(resident: Resident, duration_s: float) -> dict[str, Any]:
    """Give what a process held once it had settled and at the end, in bytes, and per cent more.

    None where it wasn't there: it was started later, or it ended.
    """
    from_s = settling_s(duration_s)
    window_s = min(WINDOW_S, from_s)
    settled = resident.median_bytes(from_s, from_s + window_s)
    ended = resident.median_bytes(duration_s - window_s, duration_s)
    known = settled is not None and ended is not None
    return {
        "process": resident.name,
        "settled_bytes": settled,
        "end_bytes": ended,
        "growth_pct": 100 * (ended / settled - 1) if known and settled and ended else None,
    }


def wanted(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Judge a soak: no failed request, no process that grows by 3 % or more.

    Args:
        report: the load's.
        rows: what `growth` gave of each process.
    """
    unanswered = report["offered"] - report["answered"]
    most = max((it["growth_pct"] for it in rows if it["growth_pct"] is not None), default=None)
    return [
        {
            "name": "requests without an answer",
            "found": unanswered,
            "wanted": "0",
            "met": unanswered == 0,
        },
        {
            "name": "growth of the process that grew most, %",
            "found": most,
            "wanted": f"< {GROWTH_PCT:g}",
            "met": None if most is None else most < GROWTH_PCT,
        },
    ]
