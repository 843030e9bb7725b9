"""The controller's pure parts: demand, changes, measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paldia_controller import observer
from paldia_controller.applier import plan_changes
from paldia_controller.demand import DemandMeter
from paldia_controller.profiling import Profiling
from paldia_controller.rollout import Wanted, advance
from paldia_controller.state import State

from paldia.api.v1 import agent_pb2, routing_pb2, types_pb2
from paldia.core.engine import Step
from paldia.core.errors import OverloadedError
from paldia.core.forecast.base import RateEstimate
from paldia.core.observation import (
    Action,
    Assignment,
    Decision,
    ModelMemory,
    ModelPlan,
    NodeView,
)
from paldia.core.types import Hardware, NodeState
from paldia.store.base import COMMIT_LIMIT_WRITES, check_commit
from paldia.store.embedded import EmbeddedStore


def demand(offered: int, backlog: int = 0, in_flight: int = 0) -> list[Any]:
    return [
        routing_pb2.ModelDemand(model="m", offered=offered, backlog=backlog, in_flight=in_flight)
    ]


def test_arrivals_of_all_frontends_add_up() -> None:
    meter = DemandMeter()
    for name in ("a", "b"):
        meter.connect(name, demand(1000), now_s=0.0)
        meter.report(name, demand(1010, backlog=1, in_flight=2), now_s=1.0)
    view = meter.sample(["m"], now_s=1.0)["m"]
    assert (view.arrivals, view.interval_s, view.backlog, view.in_flight) == (20, 1, 2, 4)
    assert meter.sample(["m"], now_s=1.1)["m"].interval_s == 0


def test_a_silent_frontend_holds_nobody_up_and_its_backlog_is_forgotten() -> None:
    meter = DemandMeter()
    for name in ("alive", "hung"):
        meter.connect(name, demand(0, backlog=7), now_s=0.0)
    for second in range(1, 11):
        meter.report("alive", demand(10 * second), now_s=float(second))
    view = meter.sample(["m"], now_s=10.0)["m"]
    assert view.arrivals / view.interval_s == pytest.approx(10)
    assert view.backlog == 0


def assignment(node_id: str) -> Assignment:
    return Assignment(node_id, "cpu", "a" * 64, 1, 1)


def decision(name: str, action: Action) -> Decision:
    return Decision(
        0.0, name, 1, action, "", RateEstimate(), 0, (), None, False, "", (), (assignment("n"),)
    )


@pytest.mark.parametrize("action", [Action.KEEP, Action.PLACE])
async def test_a_step_over_many_models_fits_the_commits_limits(
    tmp_path: Path, action: Action
) -> None:
    store = EmbeddedStore(tmp_path / "state.db")
    state = State(store)
    names = [f"m{number}" for number in range(300)]
    plans = {name: ModelPlan(name, 1, (assignment("n"),)) for name in names}
    memory = dict.fromkeys(names, ModelMemory())
    step = Step(plans, memory, tuple(decision(n, action) for n in names))
    changes = plan_changes(state, {}, step)
    check_commit([*changes.writes, state.plans.delete("planner")], changes.expect)
    assert 0 < len(changes.models) < len(names)
    assert len(changes.writes) < COMMIT_LIMIT_WRITES
    await store.close()


WANTED = Wanted("m", "d" * 64, "cpu", latency_cap_s=1.0)
NODES = (NodeView("n", Hardware("cpu", 1.0, 1 << 30), NodeState.PARKED),)


def report(task_id: str, failure: str = "") -> agent_pb2.NodeReport:
    profile = types_pb2.Profile(failure=failure)
    result = agent_pb2.ProfileResult(task_id=task_id, profile=profile)
    return agent_pb2.NodeReport(profile_results=[result])


def test_a_result_counts_only_from_the_node_that_was_asked_and_only_once() -> None:
    profiling = Profiling()
    profiling.assign([WANTED], NODES, now_s=0.0)
    (task,) = profiling.tasks.values()
    stale = report(task.task_id, failure="out of memory")
    assert profiling.results({"other": stale}, now_s=1.0) == []
    ((ended, result),) = profiling.results({"n": stale}, now_s=1.0)
    profiling.finished(ended, result.profile, now_s=1.0)
    profiling.assign([WANTED], NODES, now_s=2.0)
    assert profiling.results({"n": stale}, now_s=2.0) == []


def test_a_candidate_is_not_given_up_because_nobody_is_connected() -> None:
    model = types_pb2.Model(name="m")
    model.candidate.spec.artifact_digest = "d"
    profiles = {"d/gpu": types_pb2.Profile(failure="no")}
    assert advance(model, profiles, (), now_s=1e9) is None


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


async def test_a_fleet_at_its_limit_forgets_who_is_gone_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "NODES_LIMIT", 2)
    store, clock = EmbeddedStore(tmp_path / "state.db"), Clock()
    watching = observer.Observer(State(store), clock)
    hardware = types_pb2.Hardware(name="cpu")
    watching.agent_connected(agent_pb2.NodeInfo(node_id="gone", hardware=hardware))
    clock.now_s += observer.NODE_LIFETIME_S + 1
    watching.agent_connected(agent_pb2.NodeInfo(node_id="here", hardware=hardware))
    watching.agent_connected(agent_pb2.NodeInfo(node_id="new", hardware=hardware))
    assert set(watching.agents) == {"here", "new"}
    with pytest.raises(OverloadedError, match="limit of 2"):
        watching.agent_connected(agent_pb2.NodeInfo(node_id="more", hardware=hardware))
    await store.close()
