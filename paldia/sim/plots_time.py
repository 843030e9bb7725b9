"""Pictures along time: who missed the SLO when, and which machines were in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from paldia.sim.outcome import Outcome, Timeline
from paldia.sim.plots_style import (
    INK,
    LOAD,
    SOFT,
    WIDTH_INCHES,
    Floats,
    bare,
    coarse,
    figure,
    kind_colours,
    most,
    time_unit,
    title,
)
from paldia.sim.report import Settings, together

_STRIPS_MOST = 120
_AREAS_MOST = 400
_MISSED = (0.0, 1e-9, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0)
_MISSED_LABELS = ("none", "up to 0.1 %", "1 %", "5 %", "20 %", "50 %", "all")
_MISSED_COLOURS = ("#e8f3ec", "#fff3cf", "#fedb8b", "#fdae61", "#f0703c", "#c92a2a", "#6b0f1a")
_NOTHING_OFFERED = "#f4f4f4"


def compliance_over_time(settings: Settings, outcomes: Sequence[Outcome]) -> Figure:
    """Draw the load, and below it a strip for each policy that shows the share that missed."""
    rows = len(outcomes)
    made = figure(WIDTH_INCHES, 2.4 + 0.36 * rows)
    load, strips = made.subplots(2, 1, sharex=True, height_ratios=(1.5, 0.36 * rows + 0.1))
    unit_s, unit = time_unit(settings.duration_s)
    _draw_load(load, outcomes[0].timeline, unit_s)
    title(load, "Who missed the SLO when", f"SLO {settings.slo_s * 1e3:g} ms")
    missed = np.array([_missed(outcome.timeline) for outcome in outcomes])
    colours = ListedColormap(_MISSED_COLOURS).with_extremes(bad=_NOTHING_OFFERED)
    edges = _edges(outcomes[0], missed.shape[1], _STRIPS_MOST) / unit_s
    strips.pcolormesh(
        edges,
        np.arange(rows + 1),
        np.ma.array(missed, mask=~np.isfinite(missed)),  # type: ignore[no-untyped-call]
        cmap=colours,
        norm=BoundaryNorm(_MISSED, len(_MISSED_COLOURS)),
    )
    strips.hlines(np.arange(1, rows), edges[0], edges[-1], color="white", linewidth=3)
    strips.set_yticks(np.arange(rows) + 0.5, [outcome.policy for outcome in outcomes])
    strips.invert_yaxis()
    bare(strips, "x")
    strips.grid(visible=False)
    strips.tick_params(axis="y", length=0)
    strips.set_xlim(0, settings.duration_s / unit_s)
    strips.set_xlabel(f"simulated time, {unit}")
    for row, outcome in enumerate(outcomes):
        strips.annotate(
            f"{together(outcome).slo_compliance * 100:.2f} %",
            (1.008, row + 0.5),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=INK,
        )
    handles = [
        Patch(facecolor=colour, edgecolor=SOFT, linewidth=0.4, label=label)
        for colour, label in zip(_MISSED_COLOURS, _MISSED_LABELS, strict=True)
    ]
    made.legend(
        handles=handles, title="missed it", loc="outside right upper", frameon=False, fontsize=9
    )
    return made


def _missed(timeline: Timeline) -> Floats:
    """Share of requests that missed the SLO, by strip of time; NaN where none were offered."""
    offered = coarse(timeline.offered.astype(float), _STRIPS_MOST)
    in_slo = coarse(timeline.in_slo.astype(float), _STRIPS_MOST)
    share: Floats = np.where(offered > 0, 1 - in_slo / np.maximum(offered, 1), np.nan)
    return share


def _edges(outcome: Outcome, rows: int, at_most: int) -> Floats:
    step = int(np.ceil(len(outcome.timeline.offered) / at_most))
    edges_s: Floats = np.arange(rows + 1) * step * outcome.timeline.interval_s
    return np.minimum(edges_s, outcome.duration_s)


def _draw_load(axes: Axes, timeline: Timeline, unit_s: float) -> None:
    offered = timeline.offered.astype(float)
    step = int(np.ceil(len(offered) / _AREAS_MOST))
    rates = coarse(offered, _AREAS_MOST) / (step * timeline.interval_s)
    edges = np.arange(len(rates) + 1) * step * timeline.interval_s / unit_s
    axes.stairs(rates, edges, fill=True, color=LOAD)
    axes.set_ylim(0, most(rates.tolist()) * 1.1)
    axes.set_ylabel("requests/s", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    bare(axes, "y")


def nodes_over_time(settings: Settings, outcomes: Sequence[Outcome]) -> Figure:
    """Draw the load, and below it for each policy its machines by kind and their price."""
    made = figure(WIDTH_INCHES, 1.9 + 1.25 * len(outcomes))
    panels = made.subplots(len(outcomes) + 1, 1, sharex=True)
    unit_s, unit = time_unit(settings.duration_s)
    _draw_load(panels[0], outcomes[0].timeline, unit_s)
    title(panels[0], "Machines in use", "black line: USD an hour, right scale")
    colours = kind_colours(dict(settings.prices_usd_per_hour))
    used = [kind for kind in colours if any(o.timeline.nodes[kind].any() for o in outcomes)]
    nodes_most = most(
        float(np.sum([o.timeline.nodes[kind] for kind in used], axis=0).max()) if used else 0.0
        for o in outcomes
    )
    price_most = most(float(o.timeline.usd_per_hour.max()) for o in outcomes)
    for axes, outcome in zip(panels[1:], outcomes, strict=True):
        _draw_nodes(axes, outcome, used, colours, unit_s)
        axes.set_ylim(0, nodes_most * 1.15)
        prices = axes.twinx()
        _draw_price(prices, outcome.timeline, unit_s)
        prices.set_ylim(0, price_most * 1.15)
        cost = f"{outcome.policy}: ${outcome.cost_usd:.3g}"
        axes.set_title(cost, loc="left", fontsize=9.5, fontweight="bold", color=INK, pad=3)
    panels[-1].set_xlim(0, settings.duration_s / unit_s)
    panels[-1].set_xlabel(f"simulated time, {unit}")
    handles = [
        *(Patch(color=colours[kind], label=kind) for kind in reversed(used)),
        Line2D([], [], color=INK, linewidth=0.8, label="USD an hour"),
    ]
    made.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return made


def _draw_nodes(
    axes: Axes, outcome: Outcome, kinds: Sequence[str], colours: dict[str, str], unit_s: float
) -> None:
    timeline = outcome.timeline
    edges = np.arange(len(timeline.offered) + 1) * timeline.interval_s / unit_s
    below = np.zeros(len(timeline.offered))
    for kind in kinds:
        above = below + timeline.nodes[kind]
        axes.stairs(above, edges, baseline=below, fill=True, color=colours[kind])
        below = above
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.set_ylabel("nodes", fontsize=9)
    bare(axes, "y")


def _draw_price(axes: Axes, timeline: Timeline, unit_s: float) -> None:
    edges = np.arange(len(timeline.offered) + 1) * timeline.interval_s / unit_s
    axes.stairs(timeline.usd_per_hour, edges, color=INK, linewidth=0.8, baseline=None)
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(lambda usd, _: f"${usd:g}")
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=9)
    for side in axes.spines:
        axes.spines[side].set_visible(False)
