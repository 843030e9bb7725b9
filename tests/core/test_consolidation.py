"""Nodes that can be done without: cheaper, never at the price of an SLO, and then at rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core import engine
from paldia.core.baselines import PALDIA, Policy, policy_named
from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    Action,
    Assignment,
    DemandView,
    DeploymentState,
    DeploymentView,
    Memory,
    ModelPlan,
    ModelView,
    NodeView,
    Observation,
    Plan,
)
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, NodeState, Slo

GIB = 1 << 30
DIGEST = "a" * 64
SMALL = Hardware("small", 0.5, 8 * GIB, gpus=1, activation_s=20.0)
LARGE = Hardware("large", 0.8, 16 * GIB, gpus=1, activation_s=20.0)
SECONDS = {"small": 0.01, "large": 0.005}


def profile(kind: str, stretch: float = 1.0) -> Profile:
    seconds = SECONDS[kind] * stretch
    points = ((1, seconds), (8, 3 * seconds))
    return Profile(points, 3.0, GIB, demand=((1, 0.3), (8, 0.5)), colocation_penalty=0.05)


@dataclass
class World:
    """Nodes, models with the rates they have and always had, and a plan that is carried out."""

    nodes: dict[str, Hardware]
    rates: dict[str, float]
    slo_s: float = 0.5
    stretch: dict[str, float] = field(default_factory=dict)
    policy: Policy = PALDIA
    config: PolicyConfig = field(default_factory=PolicyConfig)
    twice: bool = True
    now_s: float = 1000.0
    plan: Plan = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)

    def put(self, places: dict[str, str]) -> None:
        """Have models serve from nodes, as if it had been planned so."""
        self.plan = {
            name: ModelPlan(name, 1, (Assignment(node_id, self.nodes[node_id].name, DIGEST, 1, 8),))
            for name, node_id in places.items()
        }

    def step(self) -> engine.Step:
        self.now_s += 1
        held: dict[str, dict[tuple[str, str], DeploymentView]] = {}
        for plan in self.plan.values():
            for spot in plan.assignments:
                ready = DeploymentView(DeploymentState.READY)
                held.setdefault(spot.node_id, {})[plan.model, DIGEST] = ready
        observation = Observation(
            self.now_s,
            tuple(
                ModelView(
                    Model(name, DIGEST, Slo(self.slo_s)),
                    DemandView(rate, 1.0, future_requests_per_second=rate),
                    {kind: profile(kind, self.stretch.get(name, 1.0)) for kind in SECONDS},
                )
                for name, rate in self.rates.items()
            ),
            tuple(
                NodeView(
                    node_id,
                    kind,
                    NodeState.ACTIVE if node_id in held else NodeState.PARKED,
                    held.get(node_id, {}),
                )
                for node_id, kind in self.nodes.items()
            ),
            self.plan,
        )
        step = engine.step(observation, self.memory, self.config, self.policy)
        if self.twice:
            assert step == engine.step(observation, self.memory, self.config, self.policy)
        self.plan, self.memory = step.plan, step.memory
        return step

    def steps(self, count: int) -> list[engine.Step]:
        return [self.step() for _ in range(count)]

    def places(self) -> dict[str, list[str]]:
        return {name: [a.node_id for a in plan.target] for name, plan in self.plan.items()}

    def usd_per_hour(self) -> float:
        used = {a.node_id for plan in self.plan.values() for a in plan.target}
        return sum(self.nodes[node_id].price_usd_per_hour for node_id in used)


def reasons(steps: Iterable[engine.Step]) -> list[str]:
    return [d.reason for s in steps for d in s.decisions if "empties" in d.reason]


def four_in_pairs() -> World:
    """Two nodes with two models each: neither model alone saves anything by leaving."""
    world = World({"s0": SMALL, "s1": SMALL, "s2": SMALL}, dict.fromkeys("abcd", 6.0))
    world.put({"a": "s0", "b": "s0", "c": "s1", "d": "s1"})
    return world


def test_a_node_is_emptied_into_another_that_runs_and_says_so() -> None:
    world = four_in_pairs()
    steps = world.steps(60)
    assert len({node for nodes in world.places().values() for node in nodes}) == 1
    assert any("saves 0.500 USD/h" in reason for reason in reasons(steps))


def test_a_proposal_waits_for_as_long_as_any_saving() -> None:
    world = four_in_pairs()
    world.config = PolicyConfig(wait_limit_s=7)
    first = None
    for _ in range(60):
        step = world.step()
        waiting = [m.saving_since_s for m in world.memory.values() if m.saving_since_s]
        if waiting and first is None:
            first = world.now_s
        if reasons([step]):
            assert first is not None
            assert world.now_s - first >= 7
            return
    pytest.fail("nothing was emptied")


def test_what_stops_winning_waits_anew() -> None:
    world = four_in_pairs()
    world.config = PolicyConfig(wait_limit_s=5)
    while not any(m.saving_since_s for m in world.memory.values()):
        world.step()
    world.rates = dict.fromkeys("abcd", 90.0)
    world.steps(2)
    assert not any(m.saving_since_s for m in world.memory.values())
    assert not reasons(world.steps(20))


def test_the_old_place_serves_until_the_new_one_is_ready() -> None:
    world = four_in_pairs()
    for _ in range(60):
        before = world.places()
        step = world.step()
        if reasons([step]):
            moved = [d for d in step.decisions if "empties" in d.reason]
            assert {d.action for d in moved} == {Action.SCALE}
            for decision in moved:
                retiring = [a.node_id for a in world.plan[decision.model].retiring]
                assert retiring == before[decision.model]
            return
    pytest.fail("nothing was emptied")


def test_two_nodes_become_one_of_another_kind_that_costs_less() -> None:
    world = World({"s0": SMALL, "s1": SMALL, "l0": LARGE}, dict.fromkeys("abcd", 100.0))
    world.put({"a": "s0", "b": "s0", "c": "s1", "d": "s1"})
    world.steps(90)
    assert set(map(tuple, world.places().values())) == {("l0",)}


def test_a_move_that_never_pays_back_is_not_made() -> None:
    world = World({"s0": SMALL, "s1": SMALL, "l0": LARGE}, dict.fromkeys("abcd", 100.0))
    world.put({"a": "s0", "b": "s0", "c": "s1", "d": "s1"})
    # 0.2 USD/h are saved; 0.8 USD/h for 23 s, until all is loaded, are 5.1 tenths of a cent.
    world.config = PolicyConfig(payback_s=90)
    before = world.places()
    world.steps(90)
    assert world.places() == before


@pytest.mark.parametrize("name", ["molecule-cost", "infless-llama-perf"])
def test_policies_that_do_not_move_empty_nothing(name: str) -> None:
    world = four_in_pairs()
    world.policy = policy_named(name)
    before = world.places()
    world.steps(40)
    assert world.places() == before


def test_nobody_moves_to_where_its_slo_would_hang_by_a_thread() -> None:
    world = four_in_pairs()
    world.config = PolicyConfig(saving_margin=0.3)
    # Together they would take more than a third of what may be planned for.
    world.rates = dict.fromkeys("abcd", 40.0)
    before = world.places()
    world.steps(40)
    assert world.places() == before


def test_two_nodes_become_one_when_one_will_do_and_stay_one() -> None:
    world = World({"s0": SMALL, "s1": SMALL}, {"a": 500.0})
    world.steps(5)
    assert len(world.places()["a"]) == 2
    world.rates = {"a": 30.0}
    world.steps(40)
    assert len(world.places()["a"]) == 1
    changes = 0
    for _ in range(60):
        before = world.places()
        world.step()
        changes += world.places() != before
    assert changes == 0


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1, 45), st.floats(0.5, 2), st.integers(0, 5)), min_size=2, max_size=7
    )
)
def test_cost_only_falls_no_slo_breaks_and_it_comes_to_rest(
    drawn: list[tuple[float, float, int]],
) -> None:
    nodes = {f"n{number}": SMALL if number % 2 else LARGE for number in range(6)}
    names = [f"m{number}" for number in range(len(drawn))]
    world = World(
        nodes,
        {name: rate for name, (rate, _, _) in zip(names, drawn, strict=True)},
        twice=False,
        stretch={name: stretch for name, (_, stretch, _) in zip(names, drawn, strict=True)},
    )
    world.put({name: f"n{node}" for name, (_, _, node) in zip(names, drawn, strict=True)})
    # What doesn't keep its SLO where it was put leaves at once, whatever that costs.
    world.steps(3)
    cost = world.usd_per_hour()
    kept: dict[str, bool] = {}
    for _ in range(120):
        step = world.step()
        assert world.usd_per_hour() <= cost + 1e-9
        cost = world.usd_per_hour()
        for decision in step.decisions:
            now = bool(decision.chosen and decision.chosen.keeps_slo)
            assert now or not kept.get(decision.model, False)
            kept[decision.model] = now
    before = world.plan
    world.steps(65)
    assert world.plan == before
