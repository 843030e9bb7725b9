"""The comparison as figures, as text, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.dataplane.summary import Row, wanted
from paldia.sim.plots_style import INK, SOFT, bare, figure, save, title

_METHOD = (
    "All on one machine, one after the other, in another order each time; medians of {repeats} "
    "repeats, with the least and the greatest. Answers were checked first. Peak: closed loop, with "
    "as many callers as gave most. CPU: of the system's own processes while at its peak, in "
    "microseconds a request; Triton's, behind it, apart, and so that of processes which aren't on "
    "the path (controller, node agent, emulated card). p50 and p99: open loop, at half of the "
    "slowest one's peak; added: over Triton directly. The load itself runs on the same cores.",
    "MLServer and Ray Serve run the model themselves, so that what they use is the whole; with "
    "access logs off. Triton directly and behind the proxies batches as the model's config says.",
)
_HEADINGS = (
    *("system", "peak, 1/s", "CPU, us", "Triton's, us", "beside, us", "p50, ms", "p99, ms"),
    *("added p50, ms", "errors"),
)
_OURS, _OTHERS, _TRITON = "#0b7a33", "#7db4dd", "#d0d7dc"


def write(
    out: Path,
    rows: Sequence[Row],
    *,
    versions: Mapping[str, str],
    skipped: Mapping[str, str],
    machine: Mapping[str, Any],
) -> None:
    """Write report.json, report.md and dataplane.png.

    Args:
        out: the folder.
        rows: a row for each system and workload.
        versions: of what was compared.
        skipped: who isn't in it, and why.
        machine: what it ran on.
    """
    judged = wanted(rows)
    document = {
        "rows": rows,
        "wanted": judged,
        "versions": versions,
        "skipped": skipped,
        "machine": machine,
    }
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = _text(rows, judged, versions, skipped, machine)
    (out / "report.md").write_text("\n".join(lines) + "\n")
    _draw(out / "dataplane.png", rows)


def _text(
    rows: Sequence[Row],
    judged: Sequence[Row],
    versions: Mapping[str, str],
    skipped: Mapping[str, str],
    machine: Mapping[str, Any],
) -> Iterable[str]:
    yield "# What passing requests on costs"
    yield ""
    for paragraph in _METHOD:
        yield paragraph.format(repeats=max((row["repeats"] for row in rows), default=0))
        yield ""
    yield f"{machine['cores']} cores, {machine['processor']}."
    yield ""
    for name in dict.fromkeys(row["workload"] for row in rows):
        own = [row for row in rows if row["workload"] == name]
        yield f"## {name}, latencies at {own[0]['rate_rps']:.0f} requests a second"
        yield ""
        yield "| " + " | ".join(_HEADINGS) + " |"
        yield "|" + "---|" * len(_HEADINGS)
        yield from map(_line, own)
        yield ""
    yield "## Wanted, for 1 KB"
    yield ""
    yield "| ratio | wanted | found | |"
    yield "|---|---|---|---|"
    for each in judged:
        met = {True: "met", False: "not met", None: "unknown"}[each["met"]]
        yield f"| {each['name']} | {each['wanted']} | {_number(each['ratio'], 2)} | {met} |"
    yield ""
    yield "![peak and CPU by system](dataplane.png)"
    yield ""
    yield "Versions: " + ", ".join(f"{name} {it}" for name, it in versions.items()) + "."
    for name, why in skipped.items():
        yield ""
        yield f"Left out: {name}: {why}."


def _line(row: Row) -> str:
    late = "" if row["kept_up"] else " (the load lagged)"
    cells = (
        row["system"],
        _spread(row, "peak_rps", 0),
        _spread(row, "cpu_us_per_request", 0),
        _number(row["triton_cpu_us_per_request"], 0),
        _number(row["beside_cpu_us_per_request"], 0),
        _spread(row, "p50_ms", 2) + late,
        _spread(row, "p99_ms", 2),
        _number(row["added_p50_ms"], 2),
        str(row["errors"]),
    )
    return "| " + " | ".join(cells) + " |"


def _spread(row: Row, key: str, digits: int) -> str:
    if row[key] is None:
        return "-"
    least, most = row["spread"][key]
    return f"{row[key]:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw peaks and CPU a request, a line of two panels a workload."""
    names = [*dict.fromkeys(row["workload"] for row in rows)]
    made = figure(11, 0.8 + 2.6 * max(1, len(names)))
    panels = made.subplots(max(1, len(names)), 2, squeeze=False)
    for (peaks, cpu), name in zip(panels, names, strict=False):
        own = [row for row in rows if row["workload"] == name]
        at = np.arange(len(own))
        colours = [_OURS if row["system"].startswith("PALDIA") else _OTHERS for row in own]
        found = np.array([row["peak_rps"] for row in own])
        spread = np.array([row["spread"]["peak_rps"] for row in own]).T
        peaks.barh(at, found, color=colours)
        peaks.hlines(at, *spread, color=SOFT)
        peaks.set_xlabel("peak, requests a second", color=SOFT)
        cpu.barh(at, [row["cpu_us_per_request"] for row in own], color=colours)
        cpu.barh(
            at,
            [row["triton_cpu_us_per_request"] for row in own],
            left=[row["cpu_us_per_request"] for row in own],
            color=_TRITON,
        )
        cpu.set_xlabel("CPU us a request; pale: the Triton behind it", color=SOFT)
        cpu.set_yticks(at, [])
        peaks.set_yticks(at, [row["system"].partition(" (")[0] for row in own], color=INK)
        for axes in (peaks, cpu):
            axes.invert_yaxis()
            bare(axes, "x")
        title(peaks, name)
    save(made, path)
