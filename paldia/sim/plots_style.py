"""How pictures look: colours, scales, legends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paldia.core.baselines import POLICIES

Floats = npt.NDArray[np.float64]

DPI = 150
WIDTH_INCHES = 10.0

INK, SOFT, GRID, LOAD, SLO = "#222222", "#6b6b6b", "#e6e6e6", "#b8c4ce", "#c0392b"

# One pair of hues for each family of policies, lighter for its cheap form; ours stands out.
_POLICIES = (
    *("#7fb3dc", "#2b6ca3", "#fdb570", "#d9601a", "#a6761d", "#b39ddb", "#93cf8e"),
    *("#0b7a33", "#9e9e9e", "#303030"),
)
_DASHES = {"paldia-paper": "--", "oracle-delay": "--", "oracle": ":"}
_MARKS = {"paldia": "*", "oracle-delay": "D", "oracle": "D"}
_OURS = "paldia"
_KINDS = ("#bcd7ee", "#7db4dd", "#3a87c2", "#fdd0a2", "#fdae6b", "#e6550d", "#a63603")
_NINES = (0.0, 0.5, 0.9, 0.99, 0.999)
_NINES_TOP = 0.9999


def colour_of(policy: str) -> str:
    """Give a policy's colour, the same everywhere."""
    names = [known.name for known in POLICIES]
    return _POLICIES[names.index(policy) % len(_POLICIES)] if policy in names else INK


def line_of(policy: str) -> dict[str, Any]:
    """Give how a policy's line is drawn."""
    ours = policy == _OURS
    return {
        "color": colour_of(policy),
        "linestyle": _DASHES.get(policy, "-"),
        "linewidth": 2.6 if ours else 1.7,
        "zorder": 3 if ours else 2,
    }


def mark_of(policy: str) -> dict[str, Any]:
    """Give how a policy's point is drawn."""
    ours = policy == _OURS
    return {
        "color": colour_of(policy),
        "marker": _MARKS.get(policy, "o"),
        "linestyle": "none",
        "markersize": 19 if ours else 10,
        "markeredgecolor": "white",
        "alpha": 0.9,
        "zorder": 3 if ours else 2,
    }


def kind_colours(prices_usd_per_hour: dict[str, float]) -> dict[str, str]:
    """Give each kind of hardware a colour, from pale and cheap to dark and dear."""
    kinds = sorted(prices_usd_per_hour, key=lambda kind: (prices_usd_per_hour[kind], kind))
    at = np.linspace(0, len(_KINDS) - 1, max(len(kinds), 2)).round().astype(int)
    return {kind: _KINDS[at[index] if len(kinds) > 1 else 3] for index, kind in enumerate(kinds)}


def figure(width_inches: float, height_inches: float) -> Figure:
    """Give an empty picture."""
    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def save(made: Figure, path: Path) -> None:
    """Write a picture as PNG."""
    made.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": ""})


def bare(axes: Axes, grid: str) -> None:
    """Leave what guides the eye: a pale grid along one axis or both, no frame."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]


def title(axes: Axes, text: str, below: str = "") -> None:
    """Head a picture, with a remark beside the title."""
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.set_title(below, loc="right", fontsize=9, color=SOFT)


def legend_right(made: Figure, axes: Axes) -> None:
    """Put the legend beside the picture."""
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)


def as_nines(shares: Floats) -> Floats:
    """Stretch shares so that 90, 99 and 99.9 % stand as far apart as they are different."""
    stretched: Floats = -np.log10(1 - np.clip(shares, 0, _NINES_TOP))
    return stretched


def nines_axis(axes: Axes, shares: Floats) -> None:
    """Label a vertical axis of stretched shares, up to the first tick above all of them."""
    bare(axes, "both")
    ticks = [*_NINES, _NINES_TOP]
    above = next((tick for tick in ticks if tick > max(0.9, float(np.max(shares)))), _NINES_TOP)
    shown = np.array([tick for tick in ticks if tick <= above])
    heights = as_nines(shown)
    labels = [f"{tick * 100:g}" for tick in shown]
    if above == _NINES_TOP:
        labels[-1] = f"{labels[-1]}+"
    axes.set_yticks(heights.tolist(), labels)
    axes.set_ylim(0, float(heights[-1]) * 1.04)


def coarse(rows: Floats, at_most: int) -> Floats:
    """Sum neighbouring rows so that no more than so many remain."""
    step = int(np.ceil(len(rows) / at_most))
    padded = np.concatenate([rows, np.zeros(-len(rows) % step)])
    summed: Floats = padded.reshape(-1, step).sum(axis=1)
    return summed


def time_unit(duration_s: float) -> tuple[float, str]:
    """Give the seconds of a unit that suits a duration, and its name."""
    for seconds, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if duration_s >= 3 * seconds:
            return seconds, name
    return 1.0, "seconds"


def most(values: Iterable[float]) -> float:
    """Give the greatest, and no less than a sliver, so that an axis has a height."""
    return max(max(values, default=0.0), 1e-9)
