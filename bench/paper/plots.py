"""The evaluation in pictures: compliance against cost, and both by policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.paper.summary import Row, groups
from paldia.core.baselines import POLICIES
from paldia.sim.plots_style import colour_of, figure, save


def draw(out: Path, rows: Sequence[Row]) -> list[str]:
    """Draw everything; give the files' names."""
    _compliance_against_cost(out / "compliance_cost.png", rows)
    _compliance_by_policy(out / "compliance.png", rows)
    return ["compliance_cost.png", "compliance.png"]


def _compliance_against_cost(path: Path, rows: Sequence[Row]) -> None:
    """One point a policy and scenario; cost as a multiple of oracle-delay's."""
    made = figure(9, 5.5)
    axes = made.subplots()
    for policy in POLICIES:
        points = [
            (
                group.rows[policy.name]["cost_usd"] / group.rows["oracle-delay"]["cost_usd"],
                100 * group.rows[policy.name]["slo_compliance"],
            )
            for group in groups(rows)
            if policy.name in group.rows and group.rows.get("oracle-delay", {}).get("cost_usd")
        ]
        if points:
            costs, compliances = zip(*points, strict=True)
            axes.scatter(
                costs, compliances, s=22, alpha=0.7, label=policy.name, color=colour_of(policy.name)
            )
    axes.set_xscale("log")
    axes.set_xlabel("cost, as a multiple of oracle-delay's")
    axes.set_ylabel("answered within the SLO, % of all requests")
    axes.grid(visible=True, alpha=0.3)
    made.legend(loc="outside right upper", frameon=False)
    save(made, path)


def _compliance_by_policy(path: Path, rows: Sequence[Row]) -> None:
    names = [policy.name for policy in POLICIES if any(r["policy"] == policy.name for r in rows)]
    made = figure(9, 5)
    axes = made.subplots()
    data = [
        [100 * row["slo_compliance"] for row in rows if row["policy"] == name] for name in names
    ]
    drawn = axes.boxplot(data, vert=False, whis=(5, 95), patch_artist=True)
    for box, name in zip(drawn["boxes"], names, strict=True):
        box.set_facecolor(colour_of(name))
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.invert_yaxis()
    axes.set_xlabel("answered within the SLO, % of all requests (box: quartiles)")
    axes.grid(visible=True, axis="x", alpha=0.3)
    save(made, path)
