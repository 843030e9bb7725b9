"""The evaluation's report: all cells as JSON, what they say as text and pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.paper import plots
from bench.paper.summary import OURS, Row, groups, summary
from paldia.core.baselines import POLICIES

_WANTED = {
    "share_within_half_a_point_of_best": ("within 0.5 points of the best non-oracle", "≥ 95 %"),
    "median_points_above_best_of_equal_or_lower_cost": (
        "median points above the best of equal or lower cost",
        "> 0",
    ),
    "median_cost_over_oracle_delay": ("median cost over oracle-delay's, at ≥ 99 %", "≤ 1.15"),
    "median_saving_realised_of_oracle_delay": ("median share of its saving realised", "≥ 0.9"),
    "median_points_above_paldia_paper": ("median points above paldia-paper", "> 0"),
}
_HEADLINES = {
    "compliance_gap_to_cheap": ("points of compliance above a cheap competitor", 13.3),
    "p99_reduction_to_cheap": ("% lower p99 than a cheap competitor", 50.0),
    "cost_reduction_to_fast": ("% lower cost than a fast competitor", 86.0),
}


def write(out: Path, rows: Sequence[Row], *, wall_s: float, ran: int) -> None:
    """Write report.json, report.md and the pictures into a folder."""
    said = summary(rows)
    document = {"cells": rows, "summary": said, "ran": ran, "wall_s": round(wall_s, 1)}
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    pictures = plots.draw(out, rows)
    (out / "report.md").write_text("\n".join(_text(rows, said, pictures, wall_s, ran)) + "\n")


def _text(
    rows: Sequence[Row], said: Row, pictures: Iterable[str], wall_s: float, ran: int
) -> Iterable[str]:
    yield "# Evaluation"
    yield ""
    yield f"{len(rows)} cells in {said['scenarios']} scenarios; {ran} run in {wall_s:.0f} s."
    yield ""
    yield "| question | wanted | found |"
    yield "|---|---|---|"
    for key, (question, wanted) in _WANTED.items():
        yield f"| {question} | {wanted} | {_figure(said[key])} |"
    yield ""
    yield "| headline of the source paper | there | best cell here | median | where |"
    yield "|---|---|---|---|---|"
    for key, (headline, there) in _HEADLINES.items():
        gap = said[key]
        best, median = _figure(gap["best"]), _figure(gap["median"])
        yield f"| {headline} | {there:g} | {best} | {median} | {gap['where']} |"
    yield ""
    yield from _by_policy(rows)
    for picture in pictures:
        yield f"![{picture}]({picture})"
        yield ""
    yield from _behind(rows)


def _by_policy(rows: Sequence[Row]) -> Iterable[str]:
    yield "| policy | median compliance | worst | median p99 ms | median USD | switches |"
    yield "|---|---|---|---|---|---|"
    for policy in POLICIES:
        own = [row for row in rows if row["policy"] == policy.name]
        if own:
            compliance = [100 * row["slo_compliance"] for row in own]
            yield (
                f"| {policy.name} | {statistics.median(compliance):.2f} % "
                f"| {min(compliance):.2f} % "
                f"| {statistics.median(row['p99_ms'] for row in own):.0f} "
                f"| {statistics.median(row['cost_usd'] for row in own):.3f} "
                f"| {statistics.mean(row['switches'] for row in own):.1f} |"
            )
    yield ""


def _behind(rows: Sequence[Row]) -> Iterable[str]:
    """Name the scenarios in which ours is furthest behind the best that isn't an oracle."""
    found = []
    for group in groups(rows):
        best = max(group.others(), key=lambda row: row["slo_compliance"])
        points = 100 * (best["slo_compliance"] - group.ours["slo_compliance"])
        if points > 0.5:
            found.append((points, group.name, best["policy"], group.ours["slo_compliance"]))
    if found:
        yield f"Where {OURS} is more than half a point behind:"
        yield ""
        yield "| scenario | points | behind | its compliance |"
        yield "|---|---|---|---|"
        for points, name, policy, compliance in sorted(found, reverse=True):
            yield f"| {name} | {points:.2f} | {policy} | {100 * compliance:.2f} % |"


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}"
