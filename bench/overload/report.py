"""The overload as figures, as text, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paldia.sim.plots_style import INK, SOFT, bare, figure, save, title

GOODPUT, REFUSAL_MS, RECOVERY_S = 0.9, 10.0, 2.0
"""Wanted of PALDIA: at least so much goodput from full load on, at most the others."""
_HEADINGS = (
    *("system", "offered", "goodput", "refused", "failed", "refusal p50", "p50", "p99"),
    "normal again after",
)
_COLOURS = {"PALDIA": "#0b7a33", "Triton": "#3a87c2"}


def wanted(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Judge what is wanted of PALDIA; None where there was nothing to judge."""
    ours = [each for each in cells if each["system"].startswith("PALDIA")]
    full = [each["goodput_over_capacity"] for each in ours if each["offered"] >= 1]
    refusals = [each["refusal_p50_ms"] for each in ours if each["refusal_p50_ms"] is not None]
    over = [each["recovery_s"] for each in ours if each["offered"] > 1]
    recoveries = [float("inf") if each is None else each for each in over]
    return [
        _judged("least goodput over capacity, from full load on", min(full, default=None), GOODPUT),
        _judged("median refusal, ms, at its slowest", max(refusals, default=None), -REFUSAL_MS),
        _judged("normal again, s, at its latest", max(recoveries, default=None), -RECOVERY_S),
    ]


def _judged(name: str, found: float | None, limit: float) -> dict[str, Any]:
    """Judge a figure that should be no less than a limit or, if that is negative, no more."""
    met = None if found is None else (found >= limit if limit > 0 else found <= -limit)
    shown = None if found == float("inf") else found
    sign = ">=" if limit > 0 else "<="
    return {"name": name, "found": shown, "wanted": f"{sign} {abs(limit):g}", "met": met}


def write(out: Path, cells: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write report.json, report.md and overload.png.

    Args:
        out: the folder.
        cells: a cell for each system and load.
        facts: what was the same for all: capacity by plan and as measured, objective, lengths.
    """
    out.mkdir(parents=True, exist_ok=True)
    judged = wanted(cells)
    document = {"cells": cells, "wanted": judged, **facts}
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "report.md").write_text("\n".join(_text(cells, judged, facts)) + "\n")
    _draw(out / "overload.png", cells)


def _text(
    cells: Sequence[Mapping[str, Any]],
    judged: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> Iterable[str]:
    yield "# Overload"
    yield ""
    yield (
        f"An emulated card serves {facts['capacity_rps']:.1f} requests a second by plan, "
        f"{facts['closed_rps']:.1f} as seen in a closed loop. Requests of 1 KB come at a multiple "
        f"of the plan's for {facts['load_s']:g} s (Poisson), then at half of it. The objective is "
        f"{facts['slo_s'] * 1e3:g} ms; goodput is what was answered within it. Callers give up "
        f"after {facts['deadline_s']:g} s. Triton batches by itself and queues without a limit."
    )
    yield ""
    yield "| " + " | ".join(_HEADINGS) + " |"
    yield "|" + "---|" * len(_HEADINGS)
    for each in cells:
        again = each["recovery_s"]
        shown = (
            each["system"],
            f"{each['offered']:g}",
            f"{each['goodput_over_capacity']:.2f}",
            f"{each['refused']}",
            f"{each['failed']}",
            _ms(each["refusal_p50_ms"]),
            _ms(each["p50_ms"]),
            _ms(each["p99_ms"]),
            f"not in {facts['tail_s']:g} s" if again is None else f"{again:g} s",
        )
        yield "| " + " | ".join(shown) + " |"
    yield ""
    yield "| wanted of PALDIA | | found | |"
    yield "|---|---|---|---|"
    for each in judged:
        met = {True: "met", False: "not met", None: "unknown"}[each["met"]]
        found = "-" if each["found"] is None else f"{each['found']:.2f}"
        yield f"| {each['name']} | {each['wanted']} | {found} | {met} |"
    yield ""
    yield "![goodput by load](overload.png)"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _draw(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    made = figure(9, 4.5)
    axes = made.subplots()
    for system in dict.fromkeys(each["system"] for each in cells):
        own = [each for each in cells if each["system"] == system]
        offered = [each["offered"] for each in own]
        colour = _COLOURS.get(system.partition(" ")[0], INK)
        goodput = [each["goodput_over_capacity"] for each in own]
        axes.plot(offered, goodput, "o-", color=colour, label=system)
    axes.axhline(GOODPUT, color=SOFT, linewidth=1, linestyle=":")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("offered, as a multiple of capacity", color=SOFT)
    axes.set_ylabel("answered within the objective, of capacity", color=SOFT)
    bare(axes, "both")
    title(axes, "Goodput under overload")
    axes.legend(frameon=False)
    save(made, path)
