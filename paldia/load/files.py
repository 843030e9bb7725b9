"""What a run leaves behind: report.json and CSV files, for programs to read."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from paldia.core.errors import InvalidArgumentError
from paldia.kit.files import replace_text
from paldia.load.outcomes import CODES, Columns
from paldia.load.plan import Plan
from paldia.load.report import Row, rows
from paldia.load.run import Result
from paldia.load.tally import Tally


def prepare(folder: Path) -> None:
    """Make the folder.

    Raises:
        InvalidArgumentError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "report.json", "{}\n")
        (folder / "report.json").unlink()
    except OSError as error:
        raise InvalidArgumentError(
            f"nothing can be written to {folder}: {error.strerror}; choose another with --out"
        ) from None


def document(plan: Plan, result: Result, rate_rps: float | None) -> dict[str, Any]:
    """Put the report together.

    Args:
        plan: what was to be sent.
        result: what came of it.
        rate_rps: requests per second that were asked for, where a rate was.
    """
    figures = result.report.figures()
    del figures["timeline"]
    overhead = {
        "cpu_us_per_request": round(result.cpu_s_per_request * 1e6, 1),
        "floor_p50_ms": round(result.floor.p50_s * 1e3, 3),
        "floor_p99_ms": round(result.floor.p99_s * 1e3, 3),
    }
    return {
        "url": plan.address,
        "model": plan.model,
        "mode": plan.when.mode,
        "rate_rps": rate_rps,
        "callers": plan.when.callers or None,
        "duration_s": figures.pop("duration_s"),
        "warmup_s": plan.when.warmup_s,
        "processes": result.processes,
        "connections": result.connections,
        **figures,
        "advice": list(result.advice),
        "details": result.details,
        "overhead": overhead,
        # The longest comes last, for those who look into the file.
        "timeline": [asdict(row) for row in result.report.timeline],
    }


def write(folder: Path, told: dict[str, Any], tally: Tally, slo_s: float | None) -> None:
    """Write report.json and requests.csv, a row for each second."""
    replace_text(folder / "report.json", json.dumps(told, indent=2) + "\n")
    with (folder / "requests.csv").open("w", newline="", encoding="utf-8") as file:
        sheet = csv.writer(file)
        sheet.writerow([field.name for field in fields(Row)])
        sheet.writerows(asdict(row).values() for row in rows(tally, slo_s, first=0))


@contextlib.contextmanager
def every_request(path: Path, warmup_s: float) -> Iterator[Callable[[Columns], None]]:
    """Write a line for each request as it becomes known; times count from the warm-up's end."""
    with path.open("w", newline="", encoding="utf-8") as file:
        sheet = csv.writer(file)
        sheet.writerow(("intended_s", "lag_ms", "latency_ms", "code"))

        def note(columns: Columns) -> None:
            times = (columns.intended_s - warmup_s, columns.lag_s * 1e3, columns.latency_s * 1e3)
            at, lag, latency = (it.round(6).tolist() for it in times)
            codes = (CODES[code] for code in columns.code.tolist())
            sheet.writerows(zip(at, lag, latency, codes, strict=True))

        yield note
