"""The soak as figures, as text, and as a picture of memory over time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.soak.growth import Resident
from paldia.sim.plots_style import SOFT, bare, figure, save, title

_MIB = 1 << 20


def write(out: Path, document: Mapping[str, Any], watched: Sequence[Resident]) -> None:
    """Write report.json, report.md and memory.png.

    Args:
        out: the folder.
        document: the report, with `processes` and `wanted`.
        watched: memory over time of each process.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "report.md").write_text("\n".join(_text(document)) + "\n")
    _draw(out / "memory.png", watched)


def _text(document: Mapping[str, Any]) -> Iterable[str]:
    load = document["load"]
    yield "# Soak"
    yield ""
    yield (
        f"{document['rate_rps']:.0f} requests of 1 KB a second for {document['minutes']:g} "
        f"minutes, 70 % of the peak of {document['peak_rps']:.0f}: {load['offered']} sent, "
        f"{load['answered']} answered, p50 {_number(load['p50_ms'])} ms, p99 "
        f"{_number(load['p99_ms'])} ms. What came of them: "
        + ", ".join(f"{code} {count}" for code, count in sorted(load["by_code"].items()))
        + "."
    )
    yield ""
    yield "| process | settled, MiB | at the end, MiB | growth |"
    yield "|---|---|---|---|"
    for each in document["processes"]:
        held = [each["settled_bytes"], each["end_bytes"]]
        settled, ended = (_number(it / _MIB if it is not None else None) for it in held)
        grown = "-" if each["growth_pct"] is None else f"{each['growth_pct']:+.2f} %"
        yield f"| {each['process']} | {settled} | {ended} | {grown} |"
    yield ""
    yield "| wanted | | found | |"
    yield "|---|---|---|---|"
    for each in document["wanted"]:
        met = {True: "met", False: "not met", None: "unknown"}[each["met"]]
        yield f"| {each['name']} | {each['wanted']} | {_number(each['found'])} | {met} |"
    yield ""
    yield "![memory over time](memory.png)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _draw(path: Path, watched: Sequence[Resident]) -> None:
    made = figure(10, 5)
    axes = made.subplots()
    for each in watched:
        held = [held / _MIB for held in each.held_bytes]
        axes.plot([at_s / 60 for at_s in each.times_s], held, label=each.name, linewidth=1.3)
    axes.set_xlabel("minutes", color=SOFT)
    axes.set_ylabel("resident, MiB", color=SOFT)
    axes.set_ylim(bottom=0)
    bare(axes, "both")
    title(axes, "Memory under load")
    made.legend(loc="outside right upper", frameon=False, fontsize=8)
    save(made, path)
