"""Who fits where: the fleet's sums against brute force, and the plans that come of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.core import engine
from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    DemandView,
    DeploymentState,
    DeploymentView,
    ModelMemory,
    ModelView,
    NodeView,
    Observation,
    Plan,
)
from paldia.core.placement.occupancy import Fleet, Load
from paldia.core.placement.packing import Item, Packing, Room
from paldia.core.placement.questions import Question, Seen
from paldia.core.profiles import Profile
from paldia.core.sharing.asks import batches_per_demand
from paldia.core.sharing.prediction import Demand, Neighbours, Way, predict
from paldia.core.types import Hardware, Model, NodeState, Slo

GIB = 1 << 30
CONFIG = PolicyConfig()
EPS = 1e-6


def nodes(count: int) -> list[NodeView]:
    kind = Hardware("gpu", 1.0, 16 * GIB, gpus=1)
    return [NodeView(f"n{index}", kind, NodeState.ACTIVE) for index in range(count)]


loads = st.builds(
    Load,
    st.sampled_from([f"m{number}" for number in range(8)]),
    used=st.floats(0, 0.4),
    memory_bytes=st.sampled_from([1.0 * GIB, 2.0 * GIB]),
    tolerance=st.floats(-1, 0.8),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(loads, max_size=6, unique_by=lambda load: load.model), st.floats(0, 0.8))
def test_a_newcomer_hurts_nobody_if_and_only_if_the_node_has_the_slack(
    held: list[Load], newcomer: float
) -> None:
    fleet = Fleet(nodes(1))
    for load in held:
        fleet.add(0, load)
    total = sum(load.used for load in held)
    hurt = [
        load
        for load in held
        if total - load.used <= load.tolerance < total - load.used + newcomer - EPS
    ]
    borderline = any(
        abs(load.tolerance - (total - load.used + part)) < 2 * EPS
        for load in held
        for part in (0.0, newcomer)
    )
    if not borderline:
        assert (newcomer > fleet.slack[0]) == bool(hurt)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), loads), max_size=20), st.data())
def test_sums_are_those_of_what_is_there(
    added: list[tuple[int, Load]], data: st.DataObject
) -> None:
    fleet = Fleet(nodes(3))
    there: dict[str, list[tuple[int, Load]]] = {}
    for index, load in added:
        if all(index != other for other, _ in there.get(load.model, [])):
            fleet.add(index, load)
            there.setdefault(load.model, []).append((index, load))
    for name in list(there):
        if data.draw(st.booleans()):
            assert fleet.forget(name) == there.pop(name)
    fleet.hold(1, "leaver", 0.25, 3.0)
    for index in range(3):
        held = [load for spots in there.values() for at, load in spots if at == index]
        extra = 0.25 if index == 1 else 0.0
        assert fleet.used[index] == pytest.approx(extra + sum(load.used for load in held))
        assert fleet.count[index] == len(held)
        left = 16 * GIB - fleet.used_bytes[index]
        taken = sum(load.memory_bytes for load in held) + (3.0 if index == 1 else 0.0)
        assert left == pytest.approx(16 * GIB - taken)
        for load in held:
            beside = fleet.used_beside(index, load.model)
            assert beside == pytest.approx(fleet.used[index] - load.used)


@st.composite
def rooms(draw: st.DrawFn) -> tuple[list[Item], Room]:
    kinds = draw(st.integers(1, 3))
    count = draw(st.integers(1, 8))
    numbers = st.floats(0.05, 0.8)
    items = []
    for number in range(draw(st.integers(1, 8))):
        used = np.array(draw(st.lists(numbers, min_size=kinds, max_size=kinds)))
        ceiling = np.minimum(
            0.8, used + np.array(draw(st.lists(numbers, min_size=kinds, max_size=kinds)))
        )
        memory = np.array(draw(st.lists(st.floats(1, 12), min_size=kinds, max_size=kinds)))
        share = np.maximum(used / ceiling, memory / 16)
        items.append(Item(f"m{number // 2}", used, memory, ceiling, share, float(share.min())))
    kind = np.sort(
        np.array(draw(st.lists(st.integers(0, kinds - 1), min_size=count, max_size=count)))
    )
    room = Room(
        kind=kind,
        price_usd_per_hour=np.array(
            draw(st.lists(st.floats(0.1, 3), min_size=kinds, max_size=kinds))
        ),
        used=np.array(draw(st.lists(st.floats(0, 0.3), min_size=count, max_size=count))),
        ceiling=np.full(count, 0.8),
        left_bytes=np.full(count, 16.0),
        running=np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        usable=np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
    )
    return items, room


@settings(max_examples=150, deadline=None)
@given(rooms())
def test_a_packing_stays_within_what_each_node_and_item_bears(
    made: tuple[list[Item], Room],
) -> None:
    items, room = made
    packing = Packing(items, room)
    spent = packing.open_for(packing.fill_running(range(len(items))))
    opened = [node for node in packing.contents if not room.running[node]]
    assert spent == pytest.approx(packing.price(opened))
    for node, held in packing.contents.items():
        kind = room.kind[node]
        assert room.usable[node]
        assert len({items[item].model for item in held}) == len(held)
        total = room.used[node] + sum(items[item].used[kind] for item in held)
        assert total <= min(0.8, *(items[item].ceiling[kind] for item in held)) + EPS
        assert sum(items[item].memory_bytes[kind] for item in held) <= room.left_bytes[node]
    for item, node in enumerate(packing.place):
        assert (node >= 0) == any(item in held for held in packing.contents.values())


KINDS = (
    Hardware("cpu", 0.2, 8 * GIB, cores=8),
    Hardware("small", 0.5, 8 * GIB, gpus=1),
    Hardware("big", 2.0, 16 * GIB, gpus=1, sm_shares=True),
)


def profiles(seconds: float, memory_gib: int) -> dict[str, Profile]:
    speeds = {"cpu": 4.0, "small": 1.5, "big": 0.5}
    return {
        kind: Profile(
            tuple((1 << p, seconds * speed * (0.7 + 0.3 * (1 << p))) for p in range(5)),
            2.0,
            memory_gib * GIB,
            demand=((1, 0.25), (16, 0.6)),
            sm_share=((1, 0.25), (16, 0.6)) if kind == "big" else (),
        )
        for kind, speed in speeds.items()
    }


def observed(models: list[tuple[Model, dict[str, Profile], float]], plan: Plan) -> Observation:
    held: dict[str, dict[tuple[str, str], DeploymentView]] = {}
    for model_plan in plan.values():
        for spot in model_plan.assignments:
            ready = DeploymentView(DeploymentState.READY)
            held.setdefault(spot.node_id, {})[model_plan.model, spot.artifact_digest] = ready
    fleet = [(f"{kind.name}-{number}", kind) for kind in KINDS for number in range(4)]
    return Observation(
        1000.0,
        tuple(
            ModelView(model, DemandView(rate, 1.0, future_requests_per_second=rate), known)
            for model, known, rate in models
        ),
        tuple(
            NodeView(node_id, kind, NodeState.ACTIVE, held.get(node_id, {}))
            for node_id, kind in fleet
        ),
        plan,
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.003, 0.03),
            st.integers(1, 3),
            st.floats(0.5, 40),
            st.sampled_from([0.1, 0.3, 1.0]),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_a_plan_keeps_memory_device_and_every_slo_that_it_says_it_keeps(
    drawn: list[tuple[float, int, float, float]],
) -> None:
    models = [
        (Model(f"m{number}", "a" * 64, Slo(slo_s)), profiles(seconds, gib), rate)
        for number, (seconds, gib, rate, slo_s) in enumerate(drawn)
    ]
    step = engine.step(observed(models, {}), {}, CONFIG)
    chosen = {d.model: d.chosen for d in step.decisions}
    known = {model.name: (model, held, rate) for model, held, rate in models}
    by_node: dict[str, list[tuple[str, float, float, int]]] = {}
    kinds = {kind.name: kind for kind in KINDS}
    for name, plan in step.plan.items():
        _, held, rate = known[name]
        for spot in plan.target:
            profile = held[spot.hardware]
            share = rate / len(plan.target)
            used = share / spot.batch * profile.latency_s(spot.batch)
            used *= profile.demand_fraction(spot.batch)
            memory = profile.memory_bytes * spot.lanes
            by_node.setdefault(spot.node_id, []).append((name, used, memory, spot.lanes))
    for node_id, there in by_node.items():
        kind = kinds[node_id.split("-")[0]]
        assert sum(memory for _, _, memory, _ in there) <= kind.memory_bytes
        feasible = [name for name, *_ in there if chosen[name] and chosen[name].feasible]
        if len(feasible) == len(there):
            assert sum(used for _, used, _, _ in there) <= CONFIG.utilisation_limit + EPS
        for name, used, _, _ in there:
            if name not in feasible or len(feasible) < len(there):
                continue
            model, held, rate = known[name]
            spot = next(a for a in step.plan[name].target if a.node_id == node_id)
            others = sum(other for _, other, _, _ in there) - used
            found = predict(
                Way(held[spot.hardware], spot.batch, spot.lanes, spot.sm_percent),
                Demand(
                    rate / len(step.plan[name].target),
                    step.memory[name].rate.dispersion,
                    0,
                    model.slo,
                ),
                Neighbours(others, others * batches_per_demand(kind)),
                CONFIG,
                lanes_limit=spot.lanes,
            )
            # Between two steps of the tolerance there is no telling; half of one is allowed.
            assert float(found.latency_s) <= CONFIG.margin * model.slo.latency_s * 1.02


def test_a_lone_model_has_the_whole_device_and_a_newcomer_only_what_it_needs() -> None:
    big = replace(KINDS[2])
    known = {"big": profiles(0.01, 1)["big"]}
    first = (Model("a", "a" * 64, Slo(0.3)), known, 20.0)
    second = (Model("b", "a" * 64, Slo(0.3)), known, 20.0)

    def look(models: list[tuple[Model, dict[str, Profile], float]], plan: Plan) -> Observation:
        view = observed(models, plan)
        return replace(view, nodes=tuple(n for n in view.nodes if n.hardware == big)[:1])

    alone = engine.step(look([first], {}), {}, CONFIG)
    assert alone.plan["a"].target[0].sm_percent == 100
    both = engine.step(look([first, second], alone.plan), alone.memory, CONFIG)
    assert both.plan["a"].target[0].sm_percent == 100
    share = both.plan["b"].target[0].sm_percent
    assert share < 100
    after = engine.step(look([first, second], both.plan), both.memory, CONFIG)
    assert after.plan["b"].target[0].sm_percent == share, "a process keeps its share"


def test_work_is_divided_where_no_node_alone_has_the_room_left() -> None:
    points = ((1, 0.01), (8, 0.02))
    known = {"small": Profile(points, 2.0, 1 * GIB, demand=((1, 0.3), (8, 0.4)))}
    held = [(Model(name, "a" * 64, Slo(2.0)), known, 420.0) for name in "ab"]
    newcomer = (Model("c", "a" * 64, Slo(2.0)), known, 420.0)

    def step(models: list[tuple[Model, dict[str, Profile], float]], plan: Plan) -> engine.Step:
        view = observed(models, plan)
        two = tuple(node for node in view.nodes if node.hardware.name == "small")[:2]
        return engine.step(replace(view, nodes=two), {}, CONFIG)

    before = step(held, {})
    assert len({plan.target[0].node_id for plan in before.plan.values()}) == 2
    after = step([*held, newcomer], before.plan)
    assert len(after.plan["c"].target) == 2
    chosen = next(d.chosen for d in after.decisions if d.model == "c")
    assert chosen is not None
    assert chosen.feasible


def test_room_is_kept_for_what_is_about_to_leave() -> None:
    fleet = Fleet(nodes(1))
    assert math.isinf(fleet.slack[0])
    fleet.add(0, Load("a", 0.2, 1.0 * GIB, 0.3))
    before = float(fleet.slack[0])
    fleet.hold(0, "leaver", 0.1, 2.0 * GIB)
    assert fleet.slack[0] == pytest.approx(before - 0.1)
    assert fleet.used_bytes[0] == 3 * GIB
    assert fleet.count[0] == 1


def _view(name: str) -> ModelView:
    return ModelView(Model(name, "a" * 64, Slo(0.1)), DemandView(0.0, 1.0), {})


def test_what_a_model_is_about_to_leave_is_room_to_itself() -> None:
    fleet, before = Fleet(nodes(2)), Fleet(nodes(2))
    for each in (fleet, before):
        each.add(0, Load("a", 0.2, 1.0 * GIB, 0.3))
    fleet.hold(0, "m", 0.1, 2.0 * GIB)
    alone = Seen(Question(_view("m"), ModelMemory(), (), 0.0), before, PolicyConfig())
    seen = Seen(Question(_view("m"), ModelMemory(), (), 0.0), fleet, PolicyConfig())
    other = Seen(Question(_view("o"), ModelMemory(), (), 0.0), fleet, PolicyConfig())
    assert seen.used[0] == pytest.approx(alone.used[0])
    assert seen.room[0] == pytest.approx(alone.room[0])
    assert seen.left_bytes[0] == alone.left_bytes[0]
    assert seen.preference[0] > alone.preference[0], "it rather goes back than elsewhere"
    assert other.used[0] == pytest.approx(alone.used[0] + 0.1)
    assert other.left_bytes[0] == alone.left_bytes[0] - 2 * GIB
