"""What was measured, as tables, a text, a picture and figures for other programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.forecast_report import table
from bench.planner.placement import MODELS, NODES, SETTLE_LIMIT_S, Outcome
from bench.planner.speed import Sample, Speed, growth

FULL_TARGET_S, TICK_TARGET_S, TARGET_SIZE = 2.0, 0.2, 1000
COST_TARGET = 0.05


def speed_table(speeds: Sequence[Speed]) -> str:
    """Lay out times by size, with what is wanted of the size that has a target."""
    heads = (
        *("nodes = models", "full plan", "from - to", "wanted"),
        *("1 % changed", "from - to", "judged", "wanted"),
        *("in a row", "longest", "judged"),
    )
    rows = []
    for one in speeds:
        aimed = one.size == TARGET_SIZE
        rows.append(
            (
                *(str(one.size), _time(one.full.median_s), _range(one.full)),
                _time(FULL_TARGET_S) if aimed else "",
                *(_time(one.tick.median_s), _range(one.tick), f"{one.judged:.0f}"),
                _time(TICK_TARGET_S) if aimed else "",
                *(_time(one.row.median_s), _time(one.row.spread_s[1]), f"{one.row_judged:.0f}"),
            )
        )
    return table(heads, rows)


def placement_table(outcomes: Sequence[Outcome]) -> str:
    """Lay out what each instance costs, in dollars per hour, and what it could cost."""
    heads = (
        *("instance", "first step", "planner", "HiGHS", "its bound", "above HiGHS"),
        *("above bound", "HiGHS's own gap", "settled after"),
    )
    rows: list[tuple[str, ...]] = [
        (
            one.name,
            f"{one.first_usd_per_hour:.3f}",
            f"{one.planner_usd_per_hour:.3f}",
            "none" if one.answer.cost is None else f"{one.answer.cost:.3f}",
            f"{one.answer.lower_bound:.3f}",
            _percent(one.above_best),
            _percent(one.above_bound),
            "proven best" if one.answer.proven else _percent(one.answer.gap),
            f"{one.settled_s} s" if one.settled_s < SETTLE_LIMIT_S else "never",
        )
        for one in outcomes
    ]
    shares = [_known(outcomes, n) for n in ("above_best", "above_bound")]
    for name, of in (("median", statistics.median), ("worst", max)):
        found = [_percent(of(known) if known else None) for known in shares]
        rows.append((name, "", "", "", "", *found, "", ""))
    return table(heads, rows)


def write(
    out: Path, speeds: Sequence[Speed], outcomes: Sequence[Outcome], limit_s: float
) -> list[Path]:
    """Write all that was measured into a folder, and give the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "report.json", out / "report.md"]
    written[0].write_text(json.dumps(figures(speeds, outcomes, limit_s), indent=1) + "\n")
    written[1].write_text(_text(speeds, outcomes, limit_s))
    if speeds:
        written.append(out / "curve.png")
        _curve(speeds, written[-1])
    return written


def figures(speeds: Sequence[Speed], outcomes: Sequence[Outcome], limit_s: float) -> dict[str, Any]:
    """Give all figures, with units in their names."""
    best, bound = _known(outcomes, "above_best"), _known(outcomes, "above_bound")
    return {
        "targets": {
            "size": TARGET_SIZE,
            "full_s": FULL_TARGET_S,
            "tick_s": TICK_TARGET_S,
            "above_best": COST_TARGET,
        },
        "speed": [
            {
                "size": one.size,
                "full_s": one.full.seconds,
                "tick_s": one.tick.seconds,
                "tick_judged": one.judged,
                "ticks_in_a_row_s": one.row.seconds,
                "ticks_in_a_row_judged": one.row_judged,
                "settled_s": one.settled_s,
            }
            for one in speeds
        ],
        "growth": {
            "full_power": growth(speeds, lambda one: one.full.median_s),
            "tick_power": growth(speeds, lambda one: one.tick.median_s),
        },
        "placement": {
            "limit_s": limit_s,
            "above_best_median": statistics.median(best) if best else None,
            "above_best_worst": max(best, default=None),
            "above_bound_median": statistics.median(bound) if bound else None,
            "above_bound_worst": max(bound, default=None),
            "instances": [_outcome(one) for one in outcomes],
        },
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    return {
        "name": one.name,
        "first_usd_per_hour": one.first_usd_per_hour,
        "planner_usd_per_hour": one.planner_usd_per_hour,
        "highs_usd_per_hour": one.answer.cost,
        "lower_bound_usd_per_hour": one.answer.lower_bound,
        "highs_gap": one.answer.gap,
        "highs_s": one.answer.seconds,
        "highs_cpu_s": one.answer.cpu_s,
        "proven": one.answer.proven,
        "above_best": one.above_best,
        "above_bound": one.above_bound,
        "settled_s": one.settled_s,
        "planner_cpu_s": one.planner_cpu_s,
        "planner_nodes": dict(one.planner_nodes),
        "highs_nodes": dict(one.solver_nodes),
        "planner_unserved": list(one.unserved),
        "planner_breaks_own_limits": [_violation(it) for it in one.planner_breaks],
        "planner_breaks_rows": [_violation(it) for it in one.planner_breaks_rows],
        "highs_breaks_planners_limits": [_violation(it) for it in one.solver_breaks],
        "planner_parts_not_offered": one.not_offered,
    }


def _violation(it: Any) -> dict[str, Any]:
    return {"node": it.node_id, "what": it.what, "excess": it.excess}


def _text(speeds: Sequence[Speed], outcomes: Sequence[Outcome], limit_s: float) -> str:
    parts = ["# The planner: speed and cost\n"]
    if speeds:
        parts.append(
            "## Speed\n\nProcessor time of one core; 7 kinds of hardware. *Full plan*: every model "
            "is new. *1 % changed*: all was settled, and the demand for one model in a hundred is "
            "another. *In a row*: the same, second after second, with the moves that follow and "
            "the reviews that fall due.\n"
        )
        parts.append(speed_table(speeds) + "\n")
        full = growth(speeds, lambda one: one.full.median_s)
        tick = growth(speeds, lambda one: one.tick.median_s)
        if full is not None and tick is not None:
            parts.append(
                f"From 100 nodes on, a full plan grows with size^{full:.2f}, "
                f"a tick with size^{tick:.2f}.\n\n![Growth](curve.png)\n"
            )
    if outcomes:
        parts.append(
            f"## Cost\n\n{MODELS} models, {NODES} nodes of 7 kinds; dollars per hour; the "
            f"demand is known and stays as it is. HiGHS had "
            f"{limit_s:g} s for each instance; wanted is a planner at most {COST_TARGET:.0%} above "
            "the best that it finds. Its lower bound is what it proved that any placement costs. "
            "*First step*: the placement before any move.\n"
        )
        parts.append(placement_table(outcomes) + "\n")
        parts.append(_checks(outcomes))
    return "\n".join(parts)


def _checks(outcomes: Sequence[Outcome]) -> str:
    def count(name: str) -> int:
        return sum(len(getattr(one, name)) for one in outcomes)

    below = [one.name for one in outcomes if (one.above_bound or 0.0) < -1e-6]
    lines = [
        "Each placement was checked by the rules of the other:\n",
        f"- models that the planner served nowhere or without their SLO: {count('unserved')}",
        f"- limits of its own that the planner breaks: {count('planner_breaks')}",
        f"- the planner's limits that HiGHS's placements break: {count('solver_breaks')}",
        f"- rows of the program that the planner breaks: {count('planner_breaks_rows')}",
        "- parts of the planner's placements to which no option of the program is equal or "
        f"better: {sum(one.not_offered for one in outcomes)}",
        "- instances in which the planner costs less than what was proven for the program's "
        f"options: {', '.join(below) or 'none'}",
    ]
    return "\n".join(lines) + "\n"


def _known(outcomes: Sequence[Outcome], name: str) -> list[float]:
    return [value for one in outcomes if (value := getattr(one, name)) is not None]


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.1%}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _range(sample: Sample) -> str:
    low, high = sample.spread_s
    return f"{_time(low)} - {_time(high)}"


def _curve(speeds: Sequence[Speed], path: Path) -> None:
    sizes = [one.size for one in speeds]
    figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
    axes = figure.subplots()
    for label, colour, target_s, samples in (
        ("full plan", "#1f5fa8", FULL_TARGET_S, [one.full for one in speeds]),
        ("1 % of demands changed", "#d1661f", TICK_TARGET_S, [one.tick for one in speeds]),
    ):
        axes.plot(sizes, [it.median_s for it in samples], "o-", color=colour, label=label)
        lows, highs = zip(*(it.spread_s for it in samples), strict=True)
        axes.fill_between(sizes, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.plot([TARGET_SIZE], [target_s], "_", color=colour, ms=26, mew=3)
        axes.annotate(
            f"wanted: {_time(target_s)}",
            (TARGET_SIZE, target_s),
            xytext=(-20, -4),
            textcoords="offset points",
            ha="right",
            color=colour,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="nodes, and as many models",
        ylabel="seconds of one core",
        title="What a step of the planner takes",
    )
    axes.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path)
