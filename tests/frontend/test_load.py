"""The load generator against a real frontend and Triton: how PALDIA itself is measured."""

from typing import Any

import pytest

from paldia.cli import load_inputs
from paldia.load.arrivals import uniform
from paldia.load.plan import Plan, Schedule
from paldia.load.run import LoadRun


def test_every_request_is_answered_and_every_answer_looked_into(
    frontend: Any, controller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paldia.load.run._FLOOR_S", 0.2)
    monkeypatch.setattr("paldia.load.run._FLOOR_WARMUP_S", 0.05)
    what = load_inputs.questions(
        frontend.address, "echo", "random", shapes=(), bytes_length=8, metadata=(), seed=0
    )
    assert what.outputs
    plan = Plan(
        frontend.address,
        "echo",
        what,
        Schedule("rate", 1.0, 0.0, uniform(40.0, 1.0)),
        deadline_s=20.0,
        slo_s=None,
        connections=2,
        in_flight_limit=100,
        check_every=1,
    )
    run = LoadRun(plan)
    run.go(lambda progress: None, lambda: False)
    assert run.result().report.by_code == {"OK": 40}
