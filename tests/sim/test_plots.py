"""Pictures: what is drawn is what was measured."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle, StepPatch

from paldia.core.baselines import POLICIES
from paldia.sim.outcome import Outcome
from paldia.sim.plots import latency, overview, pictures, tail
from paldia.sim.plots_style import as_nines, coarse, colour_of, kind_colours, line_of, time_unit
from paldia.sim.plots_time import compliance_over_time, nodes_over_time
from paldia.sim.report import together
from tests.sim.outcomes import SETTINGS, Batch, Run

GOOD = Run(
    batches=[Batch([at], at, at + 0.05, 0.04) for at in np.arange(0.0, 20.0, 0.5).tolist()],
).outcome()
POOR = Run(
    policy="molecule-cost",
    batches=[
        Batch([1.0, 2.0], start_s=2.1, done_s=2.25, work_s=0.15),
        Batch([12.0], start_s=12.1, done_s=12.19, work_s=0.05, cold_s=0.06),
    ],
    refused_s=[13.0],
).outcome()
NOTHING = Run(policy="oracle", refused_s=[1.0]).outcome()
UNASKED = Run(policy="oracle").outcome()


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize(
    ("outcomes", "names"),
    [
        ([GOOD], ["latency.png", "compliance.png", "nodes.png", "tail.png"]),
        (
            [GOOD, POOR, NOTHING, UNASKED],
            ["overview.png", "latency.png", "compliance.png", "nodes.png", "tail.png"],
        ),
        ([UNASKED], ["latency.png", "compliance.png", "nodes.png", "tail.png"]),
    ],
)
def test_pictures_are_files_with_captions(
    tmp_path: Path, outcomes: list[Outcome], names: list[str]
) -> None:
    captions = pictures(SETTINGS, outcomes, tmp_path)
    assert list(captions) == names
    for name, caption in captions.items():
        width, height = size(tmp_path / name)
        assert width == 1500
        assert height >= 300
        assert caption.endswith(".")


def test_each_latency_curve_passes_the_slo_at_its_compliance() -> None:
    made = latency(SETTINGS, [GOOD, POOR])
    curves = {str(line.get_label()): line for line in made.axes[0].get_lines()}
    for outcome in (GOOD, POOR):
        times_ms, heights = curves[outcome.policy].get_data()
        at = np.searchsorted(np.asarray(times_ms), SETTINGS.slo_s * 1e3, side="right") - 1
        compliance = together(outcome).slo_compliance
        assert np.asarray(heights)[at] == pytest.approx(as_nines(np.array([compliance]))[0])


def test_the_overview_has_a_point_for_each_policy() -> None:
    lines = overview(SETTINGS, [GOOD, POOR]).axes[0].get_lines()
    assert [line.get_xdata()[0] for line in lines] == [GOOD.cost_usd, POOR.cost_usd]
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([4.0, -np.log10(0.75)])
    assert "molecule-cost: 25.00 %" in str(lines[1].get_label())


def test_strips_show_the_share_that_missed_in_each_interval() -> None:
    strips = compliance_over_time(SETTINGS, [GOOD, POOR]).axes[1]
    (mesh,) = strips.collections[:1]
    shares = np.ma.filled(np.ma.asarray(mesh.get_array()), -1.0).reshape(2, 3)
    assert shares.tolist() == [[0, 0, -1], [1, 0.5, -1]]


def stairs(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(it.get_data().values) for it in axes.patches if isinstance(it, StepPatch)]


def test_machines_are_stacked_and_priced() -> None:
    load, nodes, prices = nodes_over_time(SETTINGS, [GOOD]).axes
    assert stairs(load)[0].tolist() == [2.0, 2.0, 0.0]
    # Two kinds were in use: the cheaper one below.
    assert [it.tolist() for it in stairs(nodes)] == [[0, 2, 1], [1, 2, 1]]
    below = [np.asarray(it.get_data().baseline).tolist() for it in nodes.patches]
    assert below == [[0, 0, 0], [0, 2, 1]]
    assert stairs(prices)[0].tolist() == pytest.approx([3.0, 0.72, 0.36])


def test_bars_are_the_parts_of_the_tail() -> None:
    bars = [it for it in tail(SETTINGS, [POOR]).axes[0].patches if isinstance(it, Rectangle)]
    every = together(POOR)
    parts = (
        *(every.tail_queue_s, every.tail_interference_s),
        *(every.tail_execution_s, every.tail_cold_s),
    )
    assert [bar.get_width() for bar in bars] == pytest.approx([part * 1e3 for part in parts])
    assert [bar.get_x() for bar in bars] == pytest.approx(
        [0, *np.cumsum([part * 1e3 for part in parts])[:-1]], abs=1e-6
    )


def test_policies_can_be_told_apart() -> None:
    looks = [(line_of(it.name)["color"], line_of(it.name)["linestyle"]) for it in POLICIES]
    assert len(set(looks)) == len(looks)
    assert colour_of("paldia") != colour_of("one of the user's own")


@pytest.mark.parametrize("number", [1, 2, 7])
def test_kinds_can_be_told_apart(number: int) -> None:
    prices = {f"kind{index}": 1.0 + index for index in range(number)}
    assert len(set(kind_colours(prices).values())) == number


def test_nines_stand_apart_evenly() -> None:
    heights = as_nines(np.array([0.0, 0.9, 0.99, 0.999, 0.9999, 1.0]))
    assert heights == pytest.approx([0, 1, 2, 3, 4, 4])


def test_coarse_rows_keep_their_sum() -> None:
    assert coarse(np.arange(7.0), 3).tolist() == [3, 12, 6]
    assert coarse(np.arange(3.0), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("duration_s", "unit"), [(25, "seconds"), (900, "minutes"), (28800, "hours"), (1e6, "days")]
)
def test_time_has_a_unit_that_suits_it(duration_s: float, unit: str) -> None:
    assert time_unit(duration_s)[1] == unit
    made = compliance_over_time(
        replace(SETTINGS, duration_s=duration_s), [replace(GOOD, duration_s=duration_s)]
    )
    assert made.axes[1].get_xlabel() == f"simulated time, {unit}"
