"""What an overload comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.overload.cells import BIN_S, Sent, Shape, arrivals, cell, median_s
from bench.overload.report import wanted, write

SHAPE = Shape(load_s=10.0, tail_s=5.0)
SLO_S = 0.2


def sent(
    *requests: tuple[float, float, str],
) -> Sent:
    """Give requests: when due, seconds until its fate, A(nswered), R(efused) or F(ailed)."""
    times, latencies, fates = zip(*requests, strict=True)
    return Sent(
        np.array(times),
        np.array(latencies),
        np.array([fate == "A" for fate in fates]),
        np.array([fate == "R" for fate in fates]),
    )


def summed(some: Sent, normal_s: float = 0.05, **told: Any) -> dict[str, Any]:
    usual = {"shape": SHAPE, "capacity_rps": 2.0, "slo_s": SLO_S, "normal_s": normal_s}
    return cell("PALDIA", 2.0, some, **{**usual, **told})


def test_requests_come_as_fast_as_told_and_half_as_fast_as_can_be_after() -> None:
    shape = Shape(load_s=600.0, tail_s=600.0)
    times = arrivals(10.0, 3.0, shape, seed=1)
    assert np.all(np.diff(times) >= 0)
    assert (times < 600).sum() / 600 == pytest.approx(30.0, rel=0.03)
    assert ((times >= 600) & (times < 1200)).sum() / 600 == pytest.approx(5.0, rel=0.1)
    assert np.array_equal(times, arrivals(10.0, 3.0, shape, seed=1))


def test_only_what_was_answered_in_time_under_the_load_is_goodput() -> None:
    found = summed(
        sent(
            (0.0, 0.1, "A"),
            (1.0, 0.2, "A"),
            (2.0, 0.3, "A"),
            (3.0, 0.001, "R"),
            (4.0, 0.003, "R"),
            (5.0, 0.1, "F"),
            (12.0, 0.1, "A"),
        )
    )
    assert found["goodput_over_capacity"] == pytest.approx(2 / 10 / 2.0)
    assert (found["answered"], found["refused"], found["failed"]) == (3, 2, 1)
    assert found["refusal_p50_ms"] == pytest.approx(2.0)
    assert found["p50_ms"] == pytest.approx(200.0)


def test_of_nothing_there_is_no_quantile() -> None:
    found = summed(sent((0.0, 5.0, "F")))
    assert found["refusal_p50_ms"] is None
    assert found["p99_ms"] is None
    assert median_s(sent((0.0, 5.0, "F"))) == np.inf


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([(10.1, 0.05, "A")], 0.0),
        ([(10.1, 0.001, "R"), (10.6, 0.05, "A")], BIN_S),
        ([(10.1, 0.4, "A"), (10.3, 0.4, "A"), (10.7, 0.4, "A"), (11.2, 0.05, "A")], 2 * BIN_S),
        ([(10.1, 9.0, "F"), (14.6, 0.07, "A")], 9 * BIN_S),
        ([(10.1, 0.4, "A"), (14.9, 0.4, "A")], None),
        ([(9.9, 0.05, "A")], None),
    ],
)
def test_it_is_over_with_the_first_half_second_that_is_normal(
    tail: list[tuple[float, float, str]], expected: float | None
) -> None:
    assert summed(sent((0.0, 0.1, "A"), *tail))["recovery_s"] == expected


def cells(**changed: Any) -> list[dict[str, Any]]:
    usual = {
        "goodput_over_capacity": 0.9,
        "refused": 3,
        "failed": 0,
        "refusal_p50_ms": 10.0,
        "p50_ms": 90.0,
        "p99_ms": 150.0,
        "recovery_s": 2.0,
    }
    made = [
        {"system": "PALDIA", "offered": 0.5, **usual, "goodput_over_capacity": 0.5},
        {"system": "PALDIA", "offered": 2.0, **usual, **changed},
    ]
    return [*made, {**made[1], "system": "Triton directly", "goodput_over_capacity": 0.0}]


def test_what_is_just_as_wanted_is_met() -> None:
    assert [it["met"] for it in wanted(cells())] == [True, True, True]


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"goodput_over_capacity": 0.89}, 0),
        ({"refusal_p50_ms": 10.1}, 1),
        ({"recovery_s": 2.5}, 2),
        ({"recovery_s": None}, 2),
    ],
)
def test_each_can_fail(changed: dict[str, Any], failing: int) -> None:
    judged = wanted(cells(**changed))
    assert [at for at, it in enumerate(judged) if not it["met"]] == [failing]


def test_the_report_says_it_all(tmp_path: Path) -> None:
    facts = {"capacity_rps": 60.0, "closed_rps": 59.0, "load_s": 60.0, "tail_s": 15.0}
    told = cells(recovery_s=None, refusal_p50_ms=None)
    write(tmp_path, told, {**facts, "slo_s": SLO_S, "deadline_s": 10.0})
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["cells"] == told
    assert "not in 15 s" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "overload.png").stat().st_size > 0
