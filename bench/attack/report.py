"""What was seen, as a table and as figures for other programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from bench.forecast_report import table

WANTED_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """One attack.

    Attributes:
        outcomes: what the attacker saw, how often.
        errors: of the others, by status.
        p99_ratio: of the others' 99th percentile over that of the quiet time before.
        peak_mib: most memory of the frontend's processes together; before, and 3 s after.
        log_kib: what the frontend wrote.
        died: processes of the frontend that are no more.
    """

    attack: str
    outcomes: dict[str, int]
    errors: dict[str, int]
    p50_ms: float
    p99_ms: float
    quiet_p99_ms: float
    p99_ratio: float
    before_mib: float
    peak_mib: float
    after_mib: float
    log_kib: float
    died: int


def write(rows: Sequence[Row], options: dict[str, object], folder: Path) -> str:
    """Write report.json and report.md; give the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "rows": [asdict(row) for row in rows],
        "wanted_p99_ratio": WANTED_RATIO,
        "options": options,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {"grpcio": grpc.__version__},
    }
    (folder / "report.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = _text(rows)
    (folder / "report.md").write_text(text)
    return text


def _text(rows: Sequence[Row]) -> str:
    heads = (
        *(
            "attack",
            "others' p50",
            "p99",
            "quiet before",
            "ratio",
            "failed",
            "died",
            "MiB before",
            "peak",
        ),
        *("after", "log KiB", "the attacker saw"),
    )
    lines = [
        (
            *(row.attack, f"{row.p50_ms:.1f} ms", f"{row.p99_ms:.1f} ms"),
            *(f"{row.quiet_p99_ms:.1f} ms", f"{row.p99_ratio:.1f}"),
            *(str(sum(row.errors.values())), str(row.died), f"{row.before_mib:.0f}"),
            *(f"{row.peak_mib:.0f}", f"{row.after_mib:.0f}", f"{row.log_kib:.0f}"),
            ", ".join(f"{count} {name}" for name, count in sorted(row.outcomes.items())),
        )
        for row in rows
    ]
    return table(heads, lines) + "\n"
