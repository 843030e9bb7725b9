"""The forecasters' figures as a table, a text and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.forecast_score import HORIZONS_S, QUANTILES, Key, Load, Rates, truth

Cell = dict[str, Any]
Row = Sequence[str]

SHOWN_S = 1200
"""Seconds of each trace in the picture: about its highest second."""
SHOWN_KEY: Key = (60.0, 0.99)


def table(heads: Row, rows: Iterable[Row]) -> str:
    """Lay out rows in Markdown, all but the first column flush right."""
    every = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(heads))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in every
    ]
    rule = (
        "|"
        + "|".join(
            "-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def summary_table(summary: list[Cell]) -> str:
    """Give mean losses for both questions."""
    rows = []
    for row in summary:
        cells = [row["forecaster"]]
        for question in ("rate", "peak"):
            cells += [
                f"{row[f'{question}_loss']:.4f}",
                f"{row[f'{question}_relative']:.3f}",
                str(row[f"{question}_best"]),
            ]
        rows.append(cells)
    of_last = "over last value's"
    return table(("forecaster", "rate", of_last, "best on", "peak", of_last, "best on"), rows)


def cost_table(costs: list[Cell]) -> str:
    """Give what forecasters take."""
    rows = [
        (row["forecaster"], f"{row['update_us']:.1f}", str(row["state_numbers"])) for row in costs
    ]
    return table(("forecaster", "µs an update", "numbers to store"), rows)


def loss_table(cells: list[Cell], horizon_s: float, quantile: float) -> str:
    """Give the losses at one horizon and quantile, a column a trace."""
    here = [it for it in cells if (it["horizon_s"], it["quantile"]) == (horizon_s, quantile)]
    traces = list(dict.fromkeys(it["trace"] for it in here))
    rows = []
    for forecaster in dict.fromkeys(it["forecaster"] for it in here):
        mine = {it["trace"]: it for it in here if it["forecaster"] == forecaster}
        losses = [mine[trace]["loss"] for trace in traces]
        rows.append(
            (
                forecaster,
                *(f"{loss:.4f}" for loss in losses),
                f"{np.mean(losses):.4f}",
                *(f"{mine[trace]['coverage']:.1%}" for trace in traces),
            )
        )
    return table(("forecaster", *traces, "mean", *(f"kept: {it}" for it in traces)), rows)


def held_table(cells: list[Cell], quantile: float) -> str:
    """Give how much would be held if hardware were held for the peak of a minute."""
    here = [it for it in cells if (it["horizon_s"], it["quantile"]) == (60.0, quantile)]
    traces = list(dict.fromkeys(it["trace"] for it in here))
    held = {(it["forecaster"], it["trace"]): it["held"] for it in here}
    names = dict.fromkeys(it["forecaster"] for it in here)
    rows = [(name, *(f"{held[name, trace]:.2f}" for trace in traces)) for name in names]
    return table(("forecaster", *traces), rows)


def tuning_table(tuning: list[Cell]) -> str:
    """Give what each constant would be, had it been chosen on all traces but one."""
    rows = [
        (
            row["constant"],
            row["left_out"],
            f"{row['chosen']:g}",
            f"{row['loss']:.4f}",
            f"{row['default']:g}",
            f"{row['default_loss']:.4f}",
        )
        for row in tuning
    ]
    heads = ("constant", "left out", "best on the others", "loss there", "ours", "loss there")
    return table(heads, rows)


def text(report: dict[str, Any]) -> str:
    """Write the report out."""
    parts = [
        "# Forecasters, by pinball loss",
        "Losses are over the trace's mean rate: 0.1 means a tenth of it. *Rate* is the mean over "
        "the next 0.2 s and 1 s at all quantiles, *peak* the mean over the highest second of the "
        "next 60 s at 0.9 and 0.99; both are means over all traces. *Over last value's* is the "
        "geometric mean of the ratios to the reference, which weighs all traces alike. *Best on* "
        "counts traces.",
        summary_table(report["summary"]),
        f"Best at the rate is **{report['best_rate']}**, at the peak **{report['best_peak']}**.",
        f"On {report['unseen_traces']} traces that nothing was chosen by, single functions:",
        summary_table(report["unseen"]),
        "What they take:",
        cost_table(report["costs"]),
        "![What was forecast and what came](forecast.png)",
        table(
            ("trace", "hours", "mean requests/s", "highest second", "silent seconds"),
            [
                (
                    it["name"],
                    f"{it['hours']:.2f}",
                    f"{it['mean_rps']:.1f}",
                    f"{it['highest_rps']:.0f}",
                    f"{it['silent']:.1%}",
                )
                for it in report["traces"]
            ],
        ),
    ]
    for horizon_s in HORIZONS_S:
        parts.append(f"## The next {horizon_s:g} s")
        for quantile in QUANTILES:
            parts += [
                f"Loss at {quantile:g}, and the share of forecasts that were kept:",
                loss_table(report["cells"], horizon_s, quantile),
            ]
    for quantile in (0.9, 0.99):
        parts += [
            f"Mean of the forecasts for a minute at {quantile:g}, over the mean rate: what holding "
            "hardware for them takes.",
            held_table(report["cells"], quantile),
        ]
    parts += [
        "## The constants of `surprise`",
        "Each is varied alone. The loss is the sum of the two above. *Best on the others* is what "
        "would have been chosen without the trace that is left out.",
        tuning_table(report["tuning"]),
    ]
    return "\n\n".join(parts) + "\n"


def picture(loads: list[Load], said: dict[tuple[str, str], Rates], names: Row, path: Path) -> None:
    """Draw for each trace the seconds, the peaks that came, and the peaks that were forecast.

    `said` gives what was said at `SHOWN_KEY`, by trace and forecaster; `names` are those drawn.
    """
    import matplotlib as mpl  # noqa: PLC0415  it takes a second to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    horizon_s, quantile = SHOWN_KEY
    figure, axes = plt.subplots(len(loads), 1, figsize=(11, 2.7 * len(loads)), squeeze=False)
    colours = ("#c44e00", "#0b63b0", "#3a8f3a", "#7a3fa0")
    for axis, load in zip(axes[:, 0], loads, strict=True):
        rates = load.per_second
        length = min(SHOWN_S, len(rates))
        first = int(np.clip(rates.argmax() - length // 2, 0, len(rates) - length))
        part = slice(first, first + length)
        minutes = np.arange(first, first + length) / 60
        axis.fill_between(minutes, rates[part], color="#c9d1d9", step="pre", label="requests/s")
        actual = truth(load, horizon_s)[part]
        axis.plot(minutes, actual, color="#222222", lw=1.1, label=f"highest in {horizon_s:g} s")
        for name, colour in zip(names, colours, strict=False):
            axis.plot(
                minutes,
                said[load.name, name][part],
                color=colour,
                lw=1.1,
                label=f"{name} {quantile:g}",
            )
        axis.set(title=load.name, ylabel="requests/s", ylim=(0, None))
        axis.margins(x=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("minutes")
    axes[0, 0].legend(loc="upper left", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
