"""Figures of a report against arithmetic, and what its text says."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.sim.report import bill, cell, report, together
from paldia.sim.report_requests import COLUMNS, requests_csv
from paldia.sim.report_text import report_text
from paldia.sim.scenario import Fate
from tests.sim.outcomes import PRICES, SETTINGS, Batch, Run, by_hand

KEYS = [
    *("workload", "trace", "load", "hardware_set", "policy", "requests", "slo_compliance"),
    *("p50_ms", "p99_ms", "queue_ms", "interference_ms", "execution_ms", "cold_ms"),
    *("cost_usd", "node_hours", "switches"),
]
# One in time, two late for having waited, and one that was refused.
RUN = Run(
    batches=[
        Batch([1.0], start_s=1.0, done_s=1.1, work_s=0.08),
        Batch([12.0, 12.1], start_s=12.4, done_s=12.5, work_s=0.1, cold_s=0.25),
    ],
    refused_s=[24.0],
)

batches = st.lists(
    st.builds(
        lambda at, waited_s, work_s, slowed, size: Batch(
            [at] * size, at + waited_s, at + waited_s + work_s * slowed, work_s
        ),
        st.floats(0, 20),
        st.floats(0, 1),
        st.floats(0.001, 0.5),
        st.floats(1, 3),
        st.integers(1, 5),
    ),
    max_size=12,
)


def labelled(run: Run) -> dict[str, object]:
    return cell(run.outcome(), workload="net", trace="calls", load=0.6, hardware_set="two")


def test_a_cell_says_what_happened() -> None:
    found = labelled(RUN)
    assert list(found)[: len(KEYS)] == KEYS
    assert found["requests"] == 4
    assert found["slo_compliance"] == 0.25
    assert (found["answered"], found["refused"], found["failed"]) == (3, 1, 0)
    # The slowest answer came 0.5 s after its request: of that 0.25 s cold, 0.1 s at work.
    assert found["p50_ms"] == pytest.approx(400, rel=0.01)
    assert found["p99_ms"] == pytest.approx(500, rel=0.01)
    assert found["cold_ms"] == pytest.approx(250)
    assert found["queue_ms"] == pytest.approx(150)
    assert found["execution_ms"] == pytest.approx(100)
    assert found["interference_ms"] == pytest.approx(0, abs=1e-6)
    assert found["cost_usd"] == pytest.approx((3.0 * 10 + 0.72 * 10 + 0.36 * 5) / 3600)
    assert found["node_hours"] == pytest.approx(35 / 3600)


def test_kinds_of_hardware_add_up_to_the_bill() -> None:
    outcome = RUN.outcome()
    spent = bill(outcome, PRICES)
    assert spent == {
        "big": (pytest.approx(10 / 3600), pytest.approx(30 / 3600)),
        "small": (pytest.approx(25 / 3600), pytest.approx(9 / 3600)),
    }
    assert sum(usd for _, usd in spent.values()) == pytest.approx(outcome.cost_usd)
    assert sum(hours for hours, _ in spent.values()) == pytest.approx(outcome.node_hours)


@settings(deadline=None, derandomize=True)
@given(batches, batches)
def test_models_add_up(first: list[Batch], second: list[Batch]) -> None:
    run = Run(names=("a", "b"), per_model={"a": first, "b": second})
    added, whole = together(run.outcome()), by_hand([*first, *second])
    for part in ("requests", "answered", "in_slo", "refused", "failed"):
        assert getattr(added, part) == getattr(whole, part)
    assert np.array_equal(added.latency_counts, whole.latency_counts)
    for part in ("queue_s", "interference_s", "execution_s", "cold_s"):
        assert getattr(added, part) == pytest.approx(getattr(whole, part))


def test_report_json_has_cells_models_and_settings() -> None:
    runs = [RUN, replace(RUN, policy="oracle", names=("a", "b"))]
    made = json.loads(json.dumps(report(SETTINGS, [run.outcome() for run in runs], ["static"])))
    assert [one["policy"] for one in made["cells"]] == ["paldia", "oracle"]
    assert made["cells"][0]["load"] == SETTINGS.load
    assert [one["name"] for one in made["cells"][1]["models"]] == ["a", "b"]
    assert made["cells"][1]["requests"] == 8
    assert made["cells"][1]["models"][0]["requests"] == 4
    assert made["cells"][0]["bill"]["big"]["cost_usd"] == pytest.approx(30 / 3600)
    assert made["settings"]["speed"] == 60
    assert made["settings"]["seed"] == 7
    assert made["unfinished"] == ["static"]


def test_the_text_says_what_the_figures_say() -> None:
    text = report_text(SETTINGS, [RUN.outcome()], {"latency.png": "How long it took."})
    assert "**paldia** answered 25.00 % of 4 requests within 200 ms" in text
    assert "| paldia | 25.00 % |" in text
    assert "compressed 60 times**: 25 minutes of the trace went by in 25 s" in text
    assert "0.5 requests for each recorded one" in text
    assert "1 x big at $3.000 an hour, 2 x small at $0.360 an hour" in text
    assert "| paldia | small | 0.007 | $0.360 | $0.0025 | 23 % |" in text
    assert "| paldia | 150.0 ms | 0.0 ms | 100.0 ms | 250.0 ms | 500.0 ms |" in text
    assert "![How long it took.](latency.png)" in text
    assert "Interrupted" not in text
    assert "## Models" not in text


def test_what_was_not_done_to_a_trace_is_not_mentioned() -> None:
    text = report_text(replace(SETTINGS, speed=1.0, factor=1.0), [RUN.outcome()], {})
    assert "compressed" not in text
    assert "scaled" not in text
    assert "## Pictures" not in text
    stretched = report_text(replace(SETTINGS, speed=0.5), [RUN.outcome()], {})
    assert "stretched 2 times**: 12.5 s of the trace went by in 25 s" in stretched


def test_several_models_and_what_is_missing_are_told() -> None:
    several = replace(RUN, names=("a", "b")).outcome()
    text = report_text(SETTINGS, [several], {}, ["oracle"])
    assert "| b | paldia | 4 | 25.00 % |" in text
    assert "**Interrupted**: oracle didn't run to the end." in text


def test_without_answers_there_is_no_latency() -> None:
    outcome = Run(refused_s=[1.0, 2.0]).outcome()
    assert labelled(Run(refused_s=[1.0, 2.0]))["slo_compliance"] == 0
    assert "| paldia | 0.00 % | - | - | 0 | 2 |" in report_text(SETTINGS, [outcome], {})


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_request_has_a_line_whose_parts_add_up(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    with requests_csv(path) as sink:
        cold_s = np.array([0.3, 0.0])
        sink(
            "net", Fate.ANSWERED, [1.0, 1.4], 2.0,
            node_id="big-1", start_s=1.5, work_s=0.4, cold_s=cold_s,
        )  # fmt: skip
        sink("net", Fate.REFUSED, np.array([3.0]), 3.25)
    first, second, third = read(path)
    assert tuple(first) == COLUMNS
    assert first["latency_ms"] == "1000.000"
    parts = ("queue_ms", "cold_ms", "execution_ms", "interference_ms")
    assert [first[part] for part in parts] == ["200.000", "300.000", "400.000", "100.000"]
    assert [second[part] for part in parts] == ["100.000", "0.000", "400.000", "100.000"]
    assert (second["node"], second["fate"], second["done_s"]) == ("big-1", "answered", "2.000000")
    assert (third["fate"], third["latency_ms"], third["queue_ms"]) == ("refused", "250.000", "")


def test_a_file_of_requests_is_whole_or_not_there(tmp_path: Path) -> None:
    def broken_off() -> None:
        with requests_csv(tmp_path / "requests.csv") as sink:
            sink("net", Fate.FAILED, [1.0], 2.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert list(tmp_path.iterdir()) == []
