"""The simulator's benchmark: what it times, what it counts, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import simulator
from bench.paper.cells import TRACES
from bench.simulator_report import Memory, Speed, name_of, speed_table, write
from paldia.core import engine


def test_each_trace_is_timed_with_several_models_and_time_sharing_policies() -> None:
    names = [name_of(case) for case in simulator.cases()]
    assert len(set(names)) == len(names)
    for trace in TRACES:
        assert f"resnet50/{trace}/paldia" in names
        assert f"all-16/{trace}/paldia" in names
        assert f"resnet50/{trace}/molecule-perf" in names


def test_a_case_is_run_as_often_as_wanted_and_its_parts_add_up() -> None:
    case = next(case for case in simulator.cases() if name_of(case) == "bert/poisson/paldia")
    told: list[int] = []
    step = engine.step
    speed = simulator.timed(case, 3.0, 1, told.append)
    assert told == [0, 1], "the first counts only"
    assert engine.step is step, "nobody is watched any more"
    assert len(speed.seconds) == len(speed.planner_s) == 1
    assert speed.requests > 300
    assert speed.requests / 32 <= speed.batches <= speed.requests
    assert 303 <= speed.steps <= 310, "a step a second, warm-up included"
    for whole_s, planner_s in zip(speed.seconds, speed.planner_s, strict=True):
        assert 0 < planner_s < whole_s


CASE = next(simulator.cases())
SPEED = Speed(CASE, 6000, 2000, 10, (0.05, 0.03, 0.06), (0.01, 0.02, 0.03))


def test_what_is_said_of_a_case_follows_from_its_runs() -> None:
    assert SPEED.rates == [pytest.approx(rate) for rate in (100_000, 120_000, 200_000)]
    assert SPEED.batch_rows == 3
    assert SPEED.planner_share == pytest.approx(0.5)
    assert SPEED.step_ms == pytest.approx(2.0)
    assert SPEED.rest_us == pytest.approx(15.0)
    line = speed_table([SPEED]).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        *("resnet50/azure-bursty/paldia", "6,000", "3.00", "120,000", "100,000 - 200,000"),
        *("50%", "2.00", "15.0", "200,000"),
    ]


def test_reports_hold_every_run_and_what_memory_grew_by(tmp_path: Path) -> None:
    memory = Memory(CASE, 60.0, 4000, 50 << 20, 52 << 20)
    json_path, text_path = write(tmp_path / "new", [SPEED], [memory])
    written = json.loads(json_path.read_text())
    assert written["speed"][0]["cpu_s"] == [0.05, 0.03, 0.06]
    assert written["speed"][0]["requests_per_cpu_s"] == pytest.approx(120_000)
    assert written["memory"][0]["peak_bytes"] - written["memory"][0]["before_bytes"] == 2 << 20
    text = text_path.read_text()
    assert speed_table([SPEED]) in text
    assert "| 60 s  |    4,000 | 50.0 MiB | 52.0 MiB | 2.0 MiB |" in text


def test_a_name_that_fits_no_case_is_answered_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert simulator.main(["--only", "nothing", "--no-memory", "--out", str(out)]) == 2
    assert "no case's name holds 'nothing'" in capsys.readouterr().err
    assert not out.exists()
