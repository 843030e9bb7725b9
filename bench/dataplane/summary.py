"""What repeated visits come to: medians, their spread, and the ratios that are wanted."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

FIGURES = (
    "peak_rps",
    "cpu_us_per_request",
    "triton_cpu_us_per_request",
    "beside_cpu_us_per_request",
    "load_cpu_us_per_request",
    "p50_ms",
    "p99_ms",
)
DIRECT = "Triton"
OURS_1, OURS_N = "PALDIA 1", "PALDIA N"
PLAIN_1, PLAIN_N = "pass-through 1", "pass-through N"
JUDGED = "1KB"
"""The workload whose ratios are wanted."""


def rows(visits: Iterable[Row]) -> list[Row]:
    """Give a row for each system and workload, in the order in which they first appear.

    Figures are medians over the repeats; `spread` has the least and the greatest of each.
    """
    together: dict[tuple[str, str], list[Row]] = {}
    for visit in visits:
        together.setdefault((visit["workload"], visit["system"]), []).append(visit)
    made = [_row(*key, own) for key, own in together.items()]
    for row in made:
        direct = find(made, DIRECT, row["workload"])
        known = direct is not None and None not in (direct["p50_ms"], row["p50_ms"])
        row["added_p50_ms"] = row["p50_ms"] - direct["p50_ms"] if direct and known else None
    return made


def _row(workload: str, system: str, visits: Sequence[Row]) -> Row:
    values = {
        name: [visit[name] for visit in visits if visit[name] is not None] for name in FIGURES
    }
    return {
        "system": system,
        "workload": workload,
        **{name: statistics.median(found) if found else None for name, found in values.items()},
        "rate_rps": visits[0]["rate_rps"],
        "errors": sum(visit["errors"] for visit in visits),
        "kept_up": all(visit["kept_up"] for visit in visits),
        "repeats": len(visits),
        "spread": {name: [min(found), max(found)] for name, found in values.items() if found},
    }


def find(rows: Iterable[Row], system: str, workload: str) -> Row | None:
    """Give the row of the system whose name begins so."""
    return next(
        (it for it in rows if it["workload"] == workload and it["system"].startswith(system)), None
    )


def wanted(rows: Sequence[Row]) -> list[Row]:
    """Judge the ratios that are wanted for small requests; those that can't be had are None."""
    asked = (
        ("CPU of a PALDIA worker over the pass-through's", "cpu", OURS_1, PLAIN_1, "<=", 0.85),
        ("peak over Ray Serve's", "peak", OURS_N, "Ray Serve", ">=", 5.0),
        ("peak over MLServer's", "peak", OURS_N, "MLServer", ">=", 1.3),
        ("peak over the pass-through's, 1 process each", "peak", OURS_1, PLAIN_1, ">=", 1.3),
        ("peak over the pass-through's, N processes each", "peak", OURS_N, PLAIN_N, ">=", 1.3),
        ("p50 added over the pass-through's, 1 process each", "added", OURS_1, PLAIN_1, "<=", 1.35),
        (
            "p50 added over the pass-through's, N processes each",
            *("added", OURS_N, PLAIN_N, "<=", 1.35),
        ),
    )
    keys = {"cpu": "cpu_us_per_request", "peak": "peak_rps", "added": "added_p50_ms"}
    return [
        _judged(name, _ratio(rows, keys[figure], ours, theirs), sign, limit)
        for name, figure, ours, theirs, sign, limit in asked
    ]


def _ratio(rows: Sequence[Row], key: str, ours: str, theirs: str) -> float | None:
    mine, other = find(rows, ours, JUDGED), find(rows, theirs, JUDGED)
    if mine is None or other is None or mine[key] is None or other[key] is None:
        return None
    # Who adds nothing that can be measured is no measure.
    return float(mine[key] / other[key]) if other[key] > 0 else None


def _judged(name: str, ratio: float | None, sign: str, limit: float) -> Row:
    met = None if ratio is None else (ratio <= limit if sign == "<=" else ratio >= limit)
    return {"name": name, "ratio": ratio, "wanted": f"{sign} {limit:g}", "met": met}


def rate_of(peaks: Mapping[str, float]) -> float:
    """Give the rate at which latencies are compared: half of the slowest contender's peak."""
    return 0.5 * min(peaks.values())
