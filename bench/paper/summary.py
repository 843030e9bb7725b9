"""What the cells say together: each question with its figure and what was wanted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
ORACLES = ("oracle", "oracle-delay")
CHEAP = ("molecule-cost", "infless-llama-cost")
FAST = ("molecule-perf", "infless-llama-perf")
OURS = "paldia"


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one scenario, by policy."""

    name: str
    rows: dict[str, Row]

    @property
    def ours(self) -> Row:
        return self.rows[OURS]

    def others(self) -> list[Row]:
        """All but ours and the oracles."""
        return [row for name, row in self.rows.items() if name not in (OURS, *ORACLES)]


def groups(cells: Iterable[Row]) -> list[Group]:
    """Put the rows of each scenario together; scenarios that lack a policy are left out."""
    by_name: dict[str, dict[str, Row]] = {}
    for row in cells:
        name = f"{row['workload']} / {row['trace']} / {row['load']:g} / {row['hardware_set']}"
        by_name.setdefault(name, {})[row["policy"]] = row
    most = max((len(rows) for rows in by_name.values()), default=0)
    return [Group(name, rows) for name, rows in by_name.items() if len(rows) == most]


def summary(cells: Iterable[Row]) -> Row:
    """Answer the evaluation's questions.

    Compliance is in points of a hundred throughout. Medians over no scenario are None.
    """
    found = groups(cells)
    behind = [_points(_best(group.others()), group.ours) for group in found]
    against = [points for group in found if (points := _over_cheaper(group)) is not None]
    good = [group for group in found if group.ours["slo_compliance"] >= 0.99]
    savings = [saving for group in good if (saving := _saving_realised(group)) is not None]
    return {
        "scenarios": len(found),
        "share_within_half_a_point_of_best": _share(behind, lambda points: points <= 0.5),
        "worst_points_behind_best": max(behind, default=None),
        "median_points_above_best_of_equal_or_lower_cost": _median(against),
        "scenarios_at_99_percent": len(good),
        "median_cost_over_oracle_delay": _median(
            [_ratio(g.ours["cost_usd"], g.rows["oracle-delay"]["cost_usd"]) for g in good]
        ),
        "median_saving_realised_of_oracle_delay": _median(savings),
        "compliance_gap_to_cheap": _gap(found, CHEAP, _points_above),
        "p99_reduction_to_cheap": _gap(found, CHEAP, _p99_reduction),
        "cost_reduction_to_fast": _gap(found, FAST, _cost_reduction),
        "median_points_above_paldia_paper": _median(
            [_points(group.ours, group.rows["paldia-paper"]) for group in found]
        ),
    }


def _best(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: (row["slo_compliance"], -row["cost_usd"]))


def _points(above: Row, below: Row) -> float:
    return 100 * float(above["slo_compliance"] - below["slo_compliance"])


def _over_cheaper(group: Group) -> float | None:
    """Points above the best competitor that costs no more; None if all cost more."""
    cheaper = [row for row in group.others() if row["cost_usd"] <= group.ours["cost_usd"]]
    return _points(group.ours, _best(cheaper)) if cheaper else None


def _saving_realised(group: Group) -> float | None:
    """Share of the saving over the fastest hardware that is possible; None if none is."""
    fastest = max(group.rows[name]["cost_usd"] for name in FAST)
    possible = fastest - group.rows["oracle-delay"]["cost_usd"]
    if possible <= 0.01 * fastest:
        return None
    return float((fastest - group.ours["cost_usd"]) / possible)


def _points_above(ours: Row, other: Row) -> float:
    return _points(ours, other)


def _p99_reduction(ours: Row, other: Row) -> float:
    return 100 * (1 - _ratio(ours["p99_ms"], other["p99_ms"]))


def _cost_reduction(ours: Row, other: Row) -> float:
    return 100 * (1 - _ratio(ours["cost_usd"], other["cost_usd"]))


def _gap(found: list[Group], names: Sequence[str], of: Callable[[Row, Row], float]) -> Row:
    """The greatest gap to any of `names`, where it is, and the median over all."""
    gaps = [
        (of(group.ours, group.rows[name]), f"{group.name} against {name}")
        for group in found
        for name in names
    ]
    best, where = max(gaps, default=(None, ""))
    return {"best": best, "where": where, "median": _median([gap for gap, _ in gaps])}


def _ratio(over: float, under: float) -> float:
    return over / under if under else 1.0


def _median(figures: Sequence[float]) -> float | None:
    return statistics.median(figures) if figures else None


def _share(figures: Sequence[float], holds: Callable[[float], bool]) -> float | None:
    return sum(map(holds, figures)) / len(figures) if figures else None
