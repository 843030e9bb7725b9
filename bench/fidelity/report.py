"""The comparison as figures, as text, and as a picture of both sides' latencies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bench.fidelity.cases import Case
from bench.fidelity.played import Played
from paldia.sim.plots_style import GRID, SLO, SOFT, figure, save

WANTED = {"slo_points": 1.0, "p50_pct": 10.0, "p99_pct": 20.0, "cost_pct": 2.0}
"""Most that the simulator may be off, either way."""
Sides: TypeAlias = tuple[Case, Played, Played]
"""A case, as played live and in the simulator."""
_HEADINGS = ("case", "requests", "in the SLO", "p50", "p99", "cost", "ran on", "off")


def write(out: Path, rows: Sequence[dict[str, Any]], sides: Sequence[Sides]) -> None:
    """Write report.json, report.md and latencies.png.

    Args:
        out: the folder.
        rows: the report's cases.
        sides: what they were made from.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = {"wanted": WANTED, "cases": list(rows)}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.md").write_text(text(rows))
    _draw(out / "latencies.png", sides)


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Give a table: each case live and simulated, and how far apart they are."""
    lines = [
        "# The simulator against a live cluster",
        "",
        "The same requests, the same policy, profiles as measured on the live cluster. To them "
        "and to the simulator's answers is added what single requests took beyond their batches. "
        "The last column names what is further off than wanted.",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + "---|" * len(_HEADINGS),
    ]
    for row in rows:
        for side in ("live", "sim"):
            it = row[side]
            cells = (
                f"{row['name']}, {side}",
                f"{it['requests']}",
                f"{it['slo_compliance']:.2%}",
                _ms(it["p50_ms"]),
                _ms(it["p99_ms"]),
                f"${it['cost_usd']:.5f}",
                ", ".join(f"{node} {share:.0%}" for node, share in it["ran_on"].items()),
                "" if side == "live" else ", ".join(off(row["delta"])) or "nothing",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def off(delta: Mapping[str, float | None]) -> list[str]:
    """Name the figures that are further off than wanted, with by how much."""
    units = {"slo_points": " points", "p50_pct": " %", "p99_pct": " %", "cost_pct": " %"}
    said = []
    for key, most in WANTED.items():
        figure, by = key.partition("_")[0], delta[key]
        if by is None:
            said.append(f"{figure} unknown")
        elif abs(by) > most:
            said.append(f"{figure} {by:+.1f}{units[key]}")
    return said


def _draw(path: Path, sides: Sequence[Sides]) -> None:
    """Draw the share of answers by latency, a panel a case."""
    made = figure(10, 3.2 * -(-len(sides) // 2))
    panels = made.subplots(-(-len(sides) // 2), 2, squeeze=False).flat
    for axes, (case, live, sim) in zip(panels, sides, strict=False):
        for played, label, style in ((live, "live", "-"), (sim, "simulated", "--")):
            known = np.sort(played.latency_s[~np.isnan(played.latency_s)]) * 1e3
            share = np.arange(1, len(known) + 1) / max(1, len(played.latency_s))
            axes.plot(known, 100 * share, style, label=label)
        axes.axvline(case.slo_s * 1e3, color=SLO, linewidth=1)
        axes.set_xscale("log")
        axes.set_title(case.name, loc="left", fontsize=10)
        axes.set_xlabel("ms from when it was due to its answer", color=SOFT)
        axes.set_ylabel("% of requests", color=SOFT)
        axes.grid(visible=True, color=GRID)
        axes.legend(frameon=False)
    for axes in [*panels]:
        axes.set_visible(False)
    save(made, path)
