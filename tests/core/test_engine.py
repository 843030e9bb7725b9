"""The planner step by step, in a small world whose agents do as the plan says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core import engine
from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    Action,
    Decision,
    DemandView,
    DeploymentState,
    DeploymentView,
    Memory,
    ModelView,
    NodeView,
    Observation,
    Plan,
    Verdict,
)
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, NodeState, Slo

SLOW = Hardware("slow", 0.04, 4 << 30)
FAST = Hardware("fast", 0.10, 4 << 30)
PROFILES = {
    "slow": Profile(((1, 0.020), (2, 0.040)), 3.0, 100 << 20),
    "fast": Profile(((1, 0.010), (2, 0.020)), 3.0, 100 << 20),
}


@dataclass
class World:
    """A fleet, its models and a clock; each step takes a second."""

    nodes: dict[str, Hardware]
    models: dict[str, Model] = field(default_factory=dict)
    profiles: dict[str, Profile | None] = field(default_factory=lambda: dict(PROFILES))
    states: dict[str, NodeState] = field(default_factory=dict)
    obedient: bool = True
    config: PolicyConfig = field(default_factory=PolicyConfig)
    now_s: float = 1000.0
    plan: Plan = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)
    running: dict[str, dict[tuple[str, str], DeploymentState]] = field(default_factory=dict)
    latest: dict[str, Decision] = field(default_factory=dict)

    def step(self, backlog: int = 0, in_flight: int = 0, **rates: float) -> dict[str, Decision]:
        self.now_s += 1
        observation = Observation(
            self.now_s,
            tuple(
                ModelView(
                    model,
                    DemandView(rates.get(name, 0.0), 1.0, backlog, in_flight),
                    self.profiles,
                )
                for name, model in self.models.items()
            ),
            tuple(self._node(node_id) for node_id in self.nodes),
            self.plan,
        )
        result = engine.step(observation, self.memory, self.config)
        assert result == engine.step(observation, self.memory, self.config)
        self.plan, self.memory = result.plan, result.memory
        if self.obedient:
            self.obey()
        # A model that was passed over goes on as last decided.
        going_on = {
            name: replace(decision, action=Action.KEEP, before=decision.after)
            for name, decision in self.latest.items()
        }
        self.latest = going_on | {decision.model: decision for decision in result.decisions}
        return self.latest

    def steps(self, count: int, **rates: float) -> dict[str, Decision]:
        for _ in range(count):
            decisions = self.step(**rates)
        return decisions

    def seconds_until_it_moves_back(self) -> int:
        """Let hardly anything come until the model has gone from the fast node to the slow one."""
        quiet = 0
        while self.places("m") == ["f0"]:
            self.step(m=2)
            quiet += 1
            assert quiet < 60
        assert self.places("m") == ["s0"]
        return quiet

    def obey(self) -> None:
        self.running = {node_id: {} for node_id in self.nodes}
        for name, plan in self.plan.items():
            for assignment in plan.assignments:
                here = self.running[assignment.node_id]
                here[name, assignment.artifact_digest] = DeploymentState.READY

    def _node(self, node_id: str) -> NodeView:
        held = self.running.get(node_id, {})
        state = NodeState.ACTIVE if held else NodeState.PARKED
        return NodeView(
            node_id,
            self.nodes[node_id],
            self.states.get(node_id, state),
            {key: DeploymentView(state) for key, state in held.items()},
        )

    def places(self, name: str) -> list[str]:
        return [assignment.node_id for assignment in self.plan[name].target]


def model(name: str = "m", slo_ms: float = 100, **options: object) -> Model:
    return Model(name, "a" * 64, Slo(slo_ms / 1e3), **options)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World({"f0": FAST, "s0": SLOW}, {"m": model()})


def test_the_cheapest_that_keeps_the_slo_wins(world: World) -> None:
    decision = world.step(m=10)["m"]
    assert decision.action is Action.PLACE
    assert world.places("m") == ["s0"]
    assert {c.hardware: c.verdict for c in decision.candidates} == {
        "fast": Verdict.FEASIBLE,
        "slow": Verdict.FEASIBLE,
    }
    assert not decision.slo_unreachable


def test_rising_load_moves_it_at_once_and_says_why(world: World) -> None:
    world.steps(5, m=10)
    for _ in range(10):
        decision = world.step(m=45)["m"]
        if decision.action is not Action.KEEP:
            break
    assert decision.action is Action.MOVE
    assert world.places("m") == ["f0"]
    assert "requests/s" in decision.reason or "ms" in decision.reason
    assert decision.before[0].node_id == "s0"


def test_the_old_place_serves_until_the_new_one_is_ready(world: World) -> None:
    world.steps(5, m=10)
    world.obedient = False
    world.steps(6, m=45)
    assert world.places("m") == ["f0"]
    assert [a.node_id for a in world.plan["m"].retiring] == ["s0"]
    world.obey()
    world.step(m=45)
    assert world.plan["m"].retiring == ()


def test_falling_load_moves_it_back_only_after_the_saving_lasted(world: World) -> None:
    world.steps(10, m=45)
    assert world.places("m") == ["f0"]
    quiet = world.seconds_until_it_moves_back()
    # The average must fall first, then the saving must win for wait_limit_s on end.
    assert quiet > world.config.wait_limit_s


def test_a_saving_move_is_called_off_when_the_load_comes_back(world: World) -> None:
    world.steps(10, m=45)
    world.obedient = False
    world.seconds_until_it_moves_back()
    assert [a.node_id for a in world.plan["m"].retiring] == ["f0"]
    decision = world.step(m=40)["m"]
    assert decision.action is Action.MOVE
    assert decision.reason.startswith("called off; slow:")
    assert world.places("m") == ["f0"]
    assert world.plan["m"].retiring == (), "the other one serves nothing yet"


def start_on_a_faster_one_with_a_still_faster_one_free(world: World) -> None:
    world.nodes["t0"] = Hardware("fastest", 0.30, 4 << 30)
    world.profiles["fastest"] = Profile(((1, 0.002), (2, 0.004)), 3.0, 100 << 20)
    world.steps(5, m=10)
    world.obedient = False
    world.steps(2, m=30)
    assert world.places("m") == ["f0"]


def test_a_place_that_is_outgrown_before_it_has_started_is_passed_by(world: World) -> None:
    start_on_a_faster_one_with_a_still_faster_one_free(world)
    decision = world.step(m=120)["m"]
    assert decision.action is Action.MOVE
    assert world.places("m") == ["t0"]
    assert [a.node_id for a in world.plan["m"].retiring] == ["s0"], "which serves meanwhile"


def test_what_piles_up_is_no_reason_to_leave_a_place_that_is_starting(world: World) -> None:
    start_on_a_faster_one_with_a_still_faster_one_free(world)
    for _ in range(int(world.config.backlog_limit_s) + 15):
        world.step(m=30, backlog=40)
        assert world.places("m") == ["f0"]


def test_a_move_that_the_slo_asks_for_is_not_called_off(world: World) -> None:
    world.steps(5, m=10)
    world.obedient = False
    world.steps(6, m=45)
    for rate in (45, 60, 200, 10):
        world.step(m=rate)
        assert world.places("m") == ["f0"], "whatever comes, the old place is no better"


def test_load_at_the_edge_does_not_go_back_and_forth(world: World) -> None:
    moves = 0
    for second in range(300):
        decision = world.step(m=36 + 4 * (-1) ** second)["m"]
        moves += decision.action is Action.MOVE
    assert moves <= 1


def test_a_lost_node_is_left_at_once(world: World) -> None:
    world.steps(3, m=10)
    world.states["s0"] = NodeState.LOST
    assert world.step(m=10)["m"].action is Action.MOVE
    assert world.places("m") == ["f0"]


def test_a_draining_node_is_emptied_without_a_gap(world: World) -> None:
    world.steps(3, m=10)
    world.states["s0"] = NodeState.DRAINING
    world.obedient = False
    world.step(m=10)
    assert world.places("m") == ["f0"]
    assert [a.node_id for a in world.plan["m"].retiring] == ["s0"]


def test_a_place_that_fails_to_start_is_left_alone_for_a_while(world: World) -> None:
    world.obedient = False
    world.step(m=10)
    world.running = {"s0": {("m", "a" * 64): DeploymentState.FAILED}}
    world.step(m=10)
    assert world.places("m") == ["f0"]
    decision = world.step(m=10)["m"]
    assert {c.hardware: c.verdict for c in decision.candidates}["slow"] is (
        Verdict.NOT_ENOUGH_NODES
    )


def test_a_place_that_never_becomes_ready_is_given_up(world: World) -> None:
    world.obedient = False
    world.steps(2, m=10)
    world.now_s += world.config.start_limit_s + 5
    world.step(m=10)
    assert world.places("m") == ["f0"]


def test_what_loads_slower_than_was_measured_is_ready_in_the_end(world: World) -> None:
    """Where there are several nodes, too, each of which is given up for the other at first."""
    world.obedient = False
    here, since_s, tried = "", 0.0, []
    for _ in range(900):
        world.step(m=10)
        (place,) = world.places("m")
        if place != here:
            here, since_s = place, world.now_s
            tried.append(place)
        if world.now_s - since_s > 150:
            break
    assert world.now_s - since_s > 150, "it loads for so long"
    assert 2 <= len(tried) <= 5


def test_a_place_is_given_up_though_the_clock_was_set_back(world: World) -> None:
    world.obedient = False
    world.steps(5, m=10)
    world.now_s -= 900
    world.steps(int(world.config.start_limit_s) + 10, m=10)
    assert world.places("m") == ["f0"]


def test_a_short_restart_of_a_triton_is_no_failed_start(world: World) -> None:
    world.steps(200, m=10)
    world.obedient = False
    world.running = {"s0": {("m", "a" * 64): DeploymentState.LOADING}}
    world.steps(5, m=10)
    assert world.places("m") == ["s0"]


def test_an_unreachable_slo_is_served_on_the_fastest_and_said(world: World) -> None:
    world.models["m"] = model(slo_ms=5)
    decision = world.step(m=1)["m"]
    assert world.places("m") == ["f0"]
    assert decision.slo_unreachable
    assert world.plan["m"].slo_unreachable


def test_a_backlog_alone_does_not_make_the_slo_unreachable(world: World) -> None:
    assert not world.step(backlog=50, m=10)["m"].slo_unreachable


def test_several_cheap_nodes_serve_what_one_cannot() -> None:
    world = World({"s0": SLOW, "s1": SLOW, "s2": SLOW}, {"m": model()})
    world.steps(10, m=25)
    assert len(world.places("m")) == 2


def test_replicas_go_to_different_nodes() -> None:
    world = World({"s0": SLOW, "s1": SLOW}, {"m": model(min_replicas=2)})
    world.step()
    assert sorted(world.places("m")) == ["s0", "s1"]


def test_a_missing_replica_takes_the_first_node_that_comes() -> None:
    world = World({"s0": SLOW}, {"m": model(min_replicas=2)})
    world.steps(5, m=10)
    assert world.places("m") == ["s0"]
    world.nodes["s1"] = SLOW
    world.steps(2, m=10)
    assert world.places("m") == ["s0", "s1"]


def test_too_few_nodes_for_the_replicas_still_serves(world: World) -> None:
    world.models["m"] = model(min_replicas=3)
    decision = world.step()["m"]
    assert len(world.places("m")) == 1
    assert Verdict.NOT_ENOUGH_NODES in {c.verdict for c in decision.candidates}


def test_an_unused_model_unloads_and_the_first_request_wakes_it(world: World) -> None:
    world.models["m"] = model(min_replicas=0, keep_alive_s=10)
    world.step(m=1)
    world.steps(9)
    assert world.places("m") == ["s0"]
    world.steps(2)
    assert world.places("m") == []
    assert world.step(backlog=1)["m"].action is Action.PLACE


def test_models_share_a_node_while_it_lasts(world: World) -> None:
    world.models["n"] = model("n")
    world.steps(5, m=5, n=5)
    assert world.places("m") == world.places("n") == ["s0"]


def test_a_newcomer_does_not_break_its_neighbour(world: World) -> None:
    world.steps(5, m=15)
    assert world.places("m") == ["s0"]
    world.models["n"] = model("n", slo_ms=1000)
    decision = world.steps(3, m=15, n=15)["n"]
    assert world.places("n") == ["f0"]
    assert {c.hardware: c.verdict for c in decision.candidates}["slow"] in (
        Verdict.NEIGHBOUR,
        Verdict.UTILISATION,
        Verdict.THROUGHPUT,
    )


def test_an_idle_node_is_used_though_a_busier_one_is_full() -> None:
    world = World({"s0": SLOW, "s1": SLOW}, {"a": model("a")})
    world.profiles = {"slow": Profile(((1, 0.001),), 1.0, 3 << 30)}
    world.steps(2, a=1)
    world.models["b"] = model("b")
    world.steps(2, a=1, b=1)
    assert world.places("a") == ["s0"]
    assert world.places("b") == ["s1"]


def test_an_update_that_fits_nowhere_leaves_the_old_artifact_serving(world: World) -> None:
    world.steps(3, m=10)
    world.models["m"] = Model("m", "b" * 64, Slo(0.1), generation=2)
    world.profiles = {kind: Profile(((1, 0.01),), 1.0, 1 << 40) for kind in ("slow", "fast")}
    decision = world.step(m=10)["m"]
    assert [a.artifact_digest for a in world.plan["m"].target] == ["a" * 64]
    assert decision.action is Action.UNPLACED


def test_missing_replicas_alone_do_not_make_the_slo_unreachable(world: World) -> None:
    world.models["m"] = model(min_replicas=5)
    assert not world.step(m=1)["m"].slo_unreachable


def test_a_request_under_way_keeps_a_model_loaded(world: World) -> None:
    world.models["m"] = model(min_replicas=0, keep_alive_s=5)
    world.step(m=1)
    for _ in range(10):
        world.step(in_flight=1)
    assert world.places("m") == ["s0"]


def test_no_keep_alive_still_serves_what_waits(world: World) -> None:
    world.models["m"] = model(min_replicas=0, keep_alive_s=0)
    world.step(backlog=1)
    assert world.places("m") == ["s0"]


def test_a_model_is_loaded_ahead_of_what_comes_each_hour(world: World) -> None:
    """And not for what has stopped."""
    world.models["m"] = model(min_replicas=0, keep_alive_s=60)
    world.now_s = 7200.0 - 1
    loaded = []
    for second in range(2 * 3600 - 10):
        world.step(m=2.0 if second < 900 or second // 60 == 40 else 0.0)
        if bool(world.places("m")) != (bool(loaded) and loaded[-1][1]):
            loaded.append((second, bool(world.places("m"))))
    starts = [second for second, there in loaded if there]
    due = [0, 2400, 3600, 6000]
    ahead = [second - start for second, start in zip(due, starts, strict=True)]
    assert ahead[:2] == [0, 0]
    assert all(0 < seconds <= 5 for seconds in ahead[2:]), "by its load time"
    ends = [second for second, there in loaded if not there]
    assert ends == [900 + 60, 2460 + 60, 3660 + 60, 6060 + 60], "keep-alive after each"


def test_a_clock_set_back_stops_neither_savings_nor_unloading(world: World) -> None:
    world.models["m"] = model(min_replicas=0, keep_alive_s=10)
    world.steps(3, m=1)
    world.now_s -= 3000
    world.steps(13)
    assert world.places("m") == []


def test_memory_bounds_what_fits() -> None:
    small = replace(SLOW, memory_bytes=50 << 20)
    world = World({"s0": small}, {"m": model()})
    decision = world.step(m=1)["m"]
    assert decision.action is Action.UNPLACED
    assert decision.candidates[0].verdict is Verdict.MEMORY


def test_a_new_artifact_goes_elsewhere_if_both_are_more_than_the_node_holds(world: World) -> None:
    large = replace(PROFILES["slow"], memory_bytes=3 << 30)
    world.nodes = {"s0": SLOW, "s1": SLOW}
    world.profiles = {"slow": large}
    world.steps(5, m=10)
    assert world.places("m") == ["s0"]
    world.models["m"] = replace(world.models["m"], artifact_digest="b" * 64, generation=2)
    world.obedient = False
    world.step(m=10)
    assert world.places("m") == ["s1"]
    assert [(a.node_id, a.artifact_digest[0]) for a in world.plan["m"].retiring] == [("s0", "a")]


def test_an_artifact_that_cannot_be_replaced_goes_on_serving(world: World) -> None:
    large = replace(PROFILES["slow"], memory_bytes=3 << 30)
    world.nodes, world.profiles = {"s0": SLOW}, {"slow": large}
    world.steps(5, m=10)
    world.models["m"] = replace(world.models["m"], artifact_digest="b" * 64, generation=2)
    decision = world.steps(3, m=10)["m"]
    assert [a.artifact_digest for a in world.plan["m"].target] == ["a" * 64]
    assert "needs 3072 MiB" in decision.reason


def test_a_new_artifact_is_started_beside_the_old(world: World) -> None:
    world.steps(3, m=10)
    world.models["m"] = Model("m", "b" * 64, Slo(0.1), generation=2)
    world.obedient = False
    decision = world.step(m=10)["m"]
    assert decision.action is Action.UPDATE
    assert world.places("m") == ["s0"]
    assert world.plan["m"].retiring[0].artifact_digest == "a" * 64


def test_what_cannot_be_loaded_somewhere_goes_elsewhere(world: World) -> None:
    world.profiles["slow"] = None
    decision = world.step(m=1)["m"]
    assert world.places("m") == ["f0"]
    assert {c.hardware: c.verdict for c in decision.candidates}["slow"] is Verdict.CANNOT_RUN


def test_a_removed_model_leaves_the_plan(world: World) -> None:
    world.step(m=1)
    world.models.clear()
    world.step()
    assert world.plan == {}


@pytest.mark.parametrize("names", [["m"], ["m", "n", "o"]])
def test_without_nodes_nothing_is_placed_and_the_reason_is_given(names: list[str]) -> None:
    world = World({}, {name: model(name) for name in names})
    decisions = world.step(**dict.fromkeys(names, 1.0))
    assert decisions.keys() == set(names)
    for decision in decisions.values():
        assert decision.action is Action.UNPLACED
        assert "no node" in decision.reason


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["slow", "fast"]), min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(0, 150), st.floats(0, 150)), min_size=3, max_size=12),
    st.integers(0, 2),
)
def test_any_load_keeps_the_plan_sound(
    kinds: list[str], loads: list[tuple[float, float]], replicas: int
) -> None:
    hardware = {"slow": SLOW, "fast": FAST}
    nodes = {f"n{index}": hardware[kind] for index, kind in enumerate(kinds)}
    world = World(nodes, {"a": model("a", min_replicas=replicas), "b": model("b", slo_ms=300)})
    for load_a, load_b in loads:
        before = {name: plan.target for name, plan in world.plan.items()}
        for decision in world.step(a=load_a, b=load_b).values():
            after = world.plan[decision.model].target
            assert decision.after == after
            assert decision.before == before.get(decision.model, ())
            assert len({a.node_id for a in after}) == len(after)
            assert len({a.hardware for a in after}) <= 1
            assert all(a.lanes >= 1 and a.batch >= 1 for a in after)
            if decision.model == "b":
                assert after, "what has to be held is held wherever it can run"
