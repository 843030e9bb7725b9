"""Pictures of a report: PNG files that say what the tables say, to be looked at.

Needs matplotlib, which nothing else here does: import this module where it is used.
A policy and a kind of hardware have the same colour in every picture of a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from paldia.sim.outcome import Outcome
from paldia.sim.plots_style import (
    SLO,
    WIDTH_INCHES,
    Floats,
    as_nines,
    bare,
    figure,
    legend_right,
    line_of,
    mark_of,
    nines_axis,
    save,
    title,
)
from paldia.sim.plots_time import compliance_over_time, nodes_over_time
from paldia.sim.report import Settings, together

_PARTS = (
    ("waiting for a lane", "tail_queue_s", "#7aa6c2"),
    ("slowed by co-runners", "tail_interference_s", "#e39c4a"),
    ("own execution", "tail_execution_s", "#4f8f5b"),
    ("nothing loaded yet", "tail_cold_s", "#8d7bb0"),
)
_SLOS_SHOWN = 3
"""Bars end at so many SLOs: a catastrophe would press all others flat."""


def pictures(settings: Settings, outcomes: Sequence[Outcome], folder: Path) -> dict[str, str]:
    """Draw all pictures into a folder; give their captions by file name."""
    slo = f"{settings.slo_s * 1e3:g} ms"
    drawn: dict[str, tuple[Figure, str]] = {}
    if len(outcomes) > 1:
        drawn["overview.png"] = (
            overview(settings, outcomes),
            "Cost against requests answered in time: up and left is better.",
        )
    drawn["latency.png"] = (
        latency(settings, outcomes),
        f"Share of all requests that were answered within a time; the red line is the SLO, {slo}.",
    )
    drawn["compliance.png"] = (
        compliance_over_time(settings, outcomes),
        f"When requests missed the SLO of {slo}: a strip a policy, the darker the more missed it.",
    )
    drawn["nodes.png"] = (
        nodes_over_time(settings, outcomes),
        "Machines in use by kind, and what they cost an hour (black line, right scale).",
    )
    drawn["tail.png"] = (
        tail(settings, outcomes),
        "What the slowest 1 % of answers spent their time with.",
    )
    for name, (made, _) in drawn.items():
        save(made, folder / name)
    return {name: caption for name, (_, caption) in drawn.items()}


def overview(settings: Settings, outcomes: Sequence[Outcome]) -> Figure:
    """Draw each policy's cost against its compliance."""
    made = figure(WIDTH_INCHES, 5.0)
    axes = made.add_subplot()
    shares = np.array([together(outcome).slo_compliance for outcome in outcomes])
    for outcome, share, height in zip(outcomes, shares, as_nines(shares), strict=True):
        label = f"{outcome.policy}: {share * 100:.2f} %, ${outcome.cost_usd:.3g}"
        axes.plot(outcome.cost_usd, height, label=label, **mark_of(outcome.policy))
    nines_axis(axes, shares)
    axes.set_xlim(left=0)
    axes.set_xlabel("cost, USD")
    axes.set_ylabel(f"requests answered within {settings.slo_s * 1e3:g} ms, %")
    title(axes, "Cost and compliance", "up and left is better")
    legend_right(made, axes)
    return made


def latency(settings: Settings, outcomes: Sequence[Outcome]) -> Figure:
    """Draw the share of all requests that were answered within each time."""
    made = figure(WIDTH_INCHES, 5.0)
    axes = made.add_subplot()
    least_s, most_s = np.inf, 2 * settings.slo_s
    shares: list[float] = []
    for outcome in outcomes:
        every = together(outcome)
        if not every.answered:
            continue
        share = np.cumsum(every.latency_counts) / every.requests
        drawn = slice(int(np.argmax(share > 0)), int(np.argmax(share >= share[-1])) + 2)
        edges_s = every.latency_edges_s[1:][drawn]
        least_s = min(least_s, every.latency_s(0.01))
        most_s = max(most_s, every.latency_s(0.999) * 1.5)
        axes.plot(
            edges_s * 1e3,
            as_nines(share[drawn]),
            drawstyle="steps-post",
            label=outcome.policy,
            **line_of(outcome.policy),
        )
        shares.append(share[-1])
    nines_axis(axes, np.array(shares or [0.0]))
    axes.set_xscale("log")
    axes.set_xlim(min(least_s, settings.slo_s / 2) * 1e3 * 0.8, most_s * 1e3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda ms, _: f"{ms:,.10g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(settings.slo_s * 1e3, color=SLO, linewidth=1.3)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("answered within it, % of all requests")
    title(axes, "Latency", f"red: the SLO of {settings.slo_s * 1e3:g} ms")
    legend_right(made, axes)
    return made


def tail(settings: Settings, outcomes: Sequence[Outcome]) -> Figure:
    """Draw what the slowest 1 % of answers spent their time with, a bar a policy."""
    made = figure(WIDTH_INCHES, 1.6 + 0.42 * len(outcomes))
    axes = made.add_subplot()
    totals = [together(outcome) for outcome in outcomes]
    parts_ms = np.array([[getattr(it, field) for _, field, _ in _PARTS] for it in totals]) * 1e3
    sums_ms: Floats = parts_ms.sum(axis=1)
    slo_ms = settings.slo_s * 1e3
    limit_ms = max(1.5 * slo_ms, 1.15 * min(float(sums_ms.max()), _SLOS_SHOWN * slo_ms))
    rows = np.arange(len(outcomes))
    left = np.zeros(len(outcomes))
    for (_, _, colour), width in zip(_PARTS, parts_ms.T, strict=True):
        axes.barh(rows, width, left=left, color=colour, height=0.68)
        left = left + width
    for row, total in zip(rows, sums_ms.tolist(), strict=True):
        beyond = total > 0.9 * limit_ms
        axes.text(
            min(total, limit_ms) + (-1 if beyond else 1) * limit_ms * 0.008,
            row,
            _time(total) + (" →" if total > limit_ms else ""),
            va="center",
            ha="right" if beyond else "left",
            color="white" if beyond else "#222222",
            fontsize=9,
        )
    axes.axvline(slo_ms, color=SLO, linewidth=1.3)
    axes.set_xlim(0, limit_ms)
    axes.set_yticks(rows, [outcome.policy for outcome in outcomes])
    axes.invert_yaxis()
    bare(axes, "x")
    axes.set_xlabel("mean over the slowest 1 % of answers, ms")
    title(axes, "Where the tail comes from", f"red: the SLO of {slo_ms:g} ms")
    handles = [Patch(color=colour, label=label) for label, _, colour in _PARTS]
    made.legend(handles=handles, loc="outside right upper", frameon=False)
    return made


def _time(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms < 10_000 else f"{ms / 1e3:,.1f} s"
