"""How much processes grow under a long load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.soak.growth import Resident, growth, settling_s, wanted
from bench.soak.report import write

MIB = 1 << 20
LOAD = {"offered": 10, "answered": 10, "by_code": {"OK": 10}, "p50_ms": 1.0, "p99_ms": None}


def resident(held_mib: Any, *, from_s: float = 0.0, to_s: float = 1800.0) -> Resident:
    times_s = np.arange(from_s, to_s, 5.0)
    return Resident("some", times_s.tolist(), [int(held_mib(at_s) * MIB) for at_s in times_s])


def grown(held_mib: Any, **told: float) -> float | None:
    found: float | None = growth(resident(held_mib, **told), 1800.0)["growth_pct"]
    return found


def test_growth_counts_from_when_all_has_settled() -> None:
    assert grown(lambda at_s: min(200.0, 100 + at_s)) == pytest.approx(0.0)
    assert grown(lambda at_s: 100.0 if at_s < 900 else 105.0) == pytest.approx(5.0)
    assert grown(lambda at_s: 100.0 if at_s < 900 else 95.0) == pytest.approx(-5.0)


def test_a_leak_shows_and_a_moments_peak_does_not() -> None:
    assert grown(lambda at_s: 100 + at_s / 100) > 10  # type: ignore[operator]
    assert grown(lambda at_s: 300.0 if at_s == 1790 else 100.0) == pytest.approx(0.0)


def test_who_was_not_there_all_along_has_not_grown() -> None:
    assert grown(lambda at_s: 100.0, from_s=600.0) is None
    assert grown(lambda at_s: 100.0, to_s=1200.0) is None


def test_short_runs_settle_for_a_sixth() -> None:
    assert (settling_s(1800.0), settling_s(60.0)) == (300.0, 10.0)


@pytest.mark.parametrize(
    ("answered", "pct", "met"),
    [(10, 2.9, [True, True]), (9, 0.0, [False, True]), (10, 3.0, [True, False])],
)
def test_what_is_wanted(answered: int, pct: float, met: list[bool]) -> None:
    rows = [{"growth_pct": None}, {"growth_pct": pct}, {"growth_pct": -1.0}]
    assert [it["met"] for it in wanted({**LOAD, "answered": answered}, rows)] == met


def test_the_report_says_it_all(tmp_path: Path) -> None:
    watched = [resident(lambda at_s: 100.0), resident(lambda at_s: 100.0, to_s=100.0)]
    rows = [growth(each, 1800.0) for each in watched]
    document = {
        "minutes": 30.0,
        "peak_rps": 1000.0,
        "rate_rps": 700.0,
        "load": LOAD,
        "processes": rows,
        "wanted": wanted(LOAD, rows),
    }
    write(tmp_path, document, watched)
    assert json.loads((tmp_path / "report.json").read_text()) == document
    assert "| some | 100 | 100 | +0.00 % |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "memory.png").stat().st_size > 0
