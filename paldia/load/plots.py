"""One picture of a run: latency by percentile, latency over time, and the rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from paldia.load.report import Row, rows
from paldia.load.tally import Tally
from paldia.sim.plots_style import (
    GRID,
    INK,
    LOAD,
    SLO,
    SOFT,
    WIDTH_INCHES,
    bare,
    figure,
    save,
    title,
)

_TAILS = (1.0, 0.1, 0.01, 0.001, 1e-4, 1e-5)
_LABELS = ("0", "90", "99", "99.9", "99.99", "99.999")
_OURS = "#0b7a33"
_WIDEST_GAP = 2.5


def draw(path: Path, tally: Tally, slo_s: float | None, heading: str, remark: str) -> None:
    """Draw it; the warm-up is the pale part left of 0.

    Args:
        path: of a PNG file.
        tally: all outcomes.
        slo_s: drawn red, if there is an objective.
        heading: what was measured.
        remark: stands beside it.
    """
    made = figure(WIDTH_INCHES, 8.0)
    percentiles, latencies, rates = made.subplots(3, 1)
    _draw_percentiles(percentiles, tally)
    title(percentiles, heading, remark)
    seconds = rows(tally, slo_s, first=min(tally.seconds, default=0))
    _draw_latencies(latencies, seconds)
    _draw_rates(rates, seconds)
    if slo_s is not None:
        for axes in (percentiles, latencies):
            axes.axhline(slo_s * 1e3, color=SLO, linewidth=1.3)
    first, last = (seconds[0].second, seconds[-1].second + 1) if seconds else (0, 1)
    for axes in (latencies, rates):
        axes.set_xlim(first, last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
        if first < 0:
            axes.axvspan(first, 0, color=GRID, alpha=0.5, zorder=0)
    rates.set_xlabel("second")
    save(made, path)


def _draw_percentiles(axes: Axes, tally: Tally) -> None:
    count = tally.latencies.count
    if count:
        tails = np.geomspace(1, 1 / count, 200)
        values = tally.latencies.recorded.get_percentile_to_value_dict(
            [float(100 * (1 - tail)) for tail in tails]
        )
        shares, micros = np.array(sorted(values.items())).T
        axes.plot(1 / (1 - shares / 100), micros / 1e3, color=_OURS, linewidth=1.7)
        axes.set_xlim(1, max(count, 10))
    shown = [at for at, tail in enumerate(_TAILS) if count * tail >= 1] or [0, 1]
    _log_axis(axes)
    axes.set_xscale("log")
    axes.set_xticks([1 / _TAILS[at] for at in shown], [_LABELS[at] for at in shown])
    axes.minorticks_off()
    axes.set_xlabel("percentile of answers")


def _draw_latencies(axes: Axes, seconds: Sequence[Row]) -> None:
    at = [row.second + 0.5 for row in seconds]
    for name, values, colour in (
        ("p50", [row.p50_ms for row in seconds], _OURS),
        ("p99", [row.p99_ms for row in seconds], SOFT),
    ):
        heights = np.array([np.nan if value is None else value for value in values])
        axes.plot(at, heights, color=colour, linewidth=1.5, marker=".", label=name)
    _log_axis(axes)


def _draw_rates(axes: Axes, seconds: Sequence[Row]) -> None:
    edges = [*(row.second for row in seconds), seconds[-1].second + 1] if seconds else [0, 1]
    answered = [row.answered for row in seconds] or [0]
    axes.stairs(answered, edges, fill=True, facecolor=LOAD, label="answered")
    for name, counts, colour in (
        ("offered", [row.offered for row in seconds], INK),
        ("not answered", [row.offered - row.answered for row in seconds], SLO),
    ):
        axes.stairs(counts or [0], edges, baseline=None, color=colour, linewidth=1.2, label=name)
    bare(axes, "y")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests/s", fontsize=9)


def _log_axis(axes: Axes) -> None:
    bare(axes, "both")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda ms, _: f"{ms:,.10g}")
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    # No wider gap lies between ticks, so there is always one.
    axes.set_ylim(min(low, high / _WIDEST_GAP), high)
    axes.set_ylabel("latency, ms", fontsize=9)
