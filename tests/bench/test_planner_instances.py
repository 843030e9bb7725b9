"""The planner's benchmark: its instances, and the program that it compares the planner with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.planner import inside, options, packing, placement, report, solve, speed
from bench.planner.drive import World
from bench.planner.instances import generate
from bench.planner.packing import Kind, Option
from paldia.core.config import PolicyConfig

GIB = 1 << 30
CHEAP = Kind("cheap", 1.0, 8 * GIB, 2)
DEAR = Kind("dear", 2.5, 16 * GIB, 1)
CONFIG = PolicyConfig()
LIMIT = 0.8


def on(kind: Kind, model: str, demand: float, tolerance: float | None = None, **more: int):
    """Give an option; if nothing is said it bears whatever the device does."""
    return Option(
        model,
        kind.name,
        more.get("replicas", 1),
        demand,
        LIMIT - demand if tolerance is None else tolerance,
        more.get("gib", 1) * GIB,
    )


def answer(offered: Sequence[Option], kinds: Sequence[Kind]):
    """Solve, and give the cost with the models on each node."""
    program = packing.program(offered, kinds)
    found = solve.solve(program, 10.0)
    assert found.proven
    assert found.lower_bound == pytest.approx(found.cost)
    nodes = [sorted(offered[rank].model for rank in held) for held in found.nodes(program)]
    return found.cost, sorted(nodes)


class TestThreeModelsOnThreeNodes:
    BASE = (
        *(on(CHEAP, "a", 0.5), on(CHEAP, "b", 0.3), on(CHEAP, "c", 0.4)),
        *(on(DEAR, "a", 0.2), on(DEAR, "b", 0.15), on(DEAR, "c", 0.2)),
    )

    def changed(self, model: str, kind: Kind, **how: object) -> list[Option]:
        return [
            replace(one, **how) if (one.model, one.kind) == (model, kind.name) else one
            for one in self.BASE
        ]

    def test_two_share_a_node_to_the_last_bit_of_it(self):
        # 0.5 + 0.3 is all of a cheap node; any other pair with a is too much.
        cost, nodes = answer(self.BASE, [CHEAP, DEAR])
        assert cost == 2.0
        assert nodes in ([["a", "b"], ["c"]], [["a"], ["b", "c"]])

    def test_one_that_bears_too_little_is_left_alone(self):
        # Now b bears neither a nor c, and there is no third cheap node.
        offered = self.changed("b", CHEAP, tolerance=0.3)
        assert answer(offered, [CHEAP, DEAR]) == (2.5, [["a", "b", "c"]])
        assert answer(offered, [replace(CHEAP, nodes=3), replace(DEAR, nodes=0)]) == (
            3.0,
            [["a"], ["b"], ["c"]],
        )

    def test_who_bears_the_least_decides_whoever_is_the_greater(self):
        # c bears exactly b, and a bears nobody.
        offered = [
            replace(one, tolerance={"a": 0.0, "b": 0.5, "c": 0.3}[one.model])
            if one.kind == CHEAP.name
            else one
            for one in self.BASE
        ]
        assert answer(offered, [CHEAP, DEAR]) == (2.0, [["a"], ["b", "c"]])

    def test_memory_keeps_apart_whom_demand_would_not(self):
        offered = self.changed("b", CHEAP, memory_bytes=8 * GIB)
        assert answer(offered, [CHEAP, DEAR]) == (2.5, [["a", "b", "c"]])

    def test_memory_for_any_two_is_not_memory_for_three(self):
        offered = [on(CHEAP, model, 0.2, gib=3) for model in "abc"]
        cost, nodes = answer(offered, [CHEAP])
        assert (cost, sorted(map(len, nodes))) == (2.0, [1, 2])
        assert answer(offered, [replace(CHEAP, memory_bytes=9 * GIB)])[0] == 1.0

    def test_all_go_to_the_dear_node_where_the_cheap_ones_are_too_few(self):
        assert answer(self.BASE, [replace(CHEAP, nodes=1), DEAR]) == (2.5, [["a", "b", "c"]])

    def test_parts_of_one_model_go_to_different_nodes(self):
        offered = [*self.BASE[1:3], on(CHEAP, "a", 0.25, replicas=2)]
        assert answer(offered, [CHEAP]) == (2.0, [["a", "b"], ["a", "c"]])

    def test_what_fits_nowhere_is_said(self):
        with pytest.raises(ValueError, match="no placement keeps all limits"):
            answer([*self.BASE[:3], on(CHEAP, "d", 0.8)], [CHEAP])


def least_cost(offered: Sequence[Option], kinds: Sequence[Kind]) -> float | None:
    """Try everything: each model's options, and each way to put their parts on nodes."""
    models = sorted({one.model for one in offered})
    nodes = [kind for kind in kinds for _ in range(kind.nodes)]
    best = None
    for chosen in itertools.product(*([o for o in offered if o.model == m] for m in models)):
        parts = [one for one in chosen for _ in range(one.replicas)]
        for places in itertools.product(range(len(nodes)), repeat=len(parts)):
            held: dict[int, list[Option]] = {}
            for part, place in zip(parts, places, strict=True):
                held.setdefault(place, []).append(part)
            if all(fits(nodes[place], there) for place, there in held.items()):
                cost = sum(nodes[place].price_usd_per_hour for place in held)
                best = cost if best is None else min(best, cost)
    return best


def fits(node: Kind, there: Sequence[Option]) -> bool:
    total = sum(one.demand for one in there)
    return (
        all(one.kind == node.name for one in there)
        and len({one.model for one in there}) == len(there)
        and all(total - one.demand <= one.tolerance + 1e-9 for one in there)
        and sum(one.memory_bytes for one in there) <= node.memory_bytes
    )


@st.composite
def problems(draw):
    kinds = [
        Kind(f"k{n}", draw(st.sampled_from([1.0, 1.5, 2.2])), draw(st.integers(3, 6)) * GIB, nodes)
        for n, nodes in enumerate(draw(st.sampled_from([(2,), (1, 2), (2, 2)])))
    ]
    offered = []
    for model in "abc":
        for kind in kinds:
            for _ in range(draw(st.integers(0, 2))):
                demand = draw(st.integers(1, 7)) / 10
                bears = draw(st.integers(0, 8 - round(demand * 10))) / 10
                more = {
                    "gib": draw(st.integers(1, 3)),
                    "replicas": draw(st.sampled_from([1, 1, 2])),
                }
                offered.append(on(kind, model, demand, bears, **more))
    return offered, kinds


class TestProgram:
    @settings(max_examples=30, deadline=None)
    @given(problems())
    def test_it_costs_what_trying_everything_costs(self, problem):
        offered, kinds = problem
        if {one.model for one in offered} != set("abc"):
            return
        least = least_cost(offered, kinds)
        if least is None:
            with pytest.raises(ValueError, match="no placement"):
                answer(offered, kinds)
        else:
            assert answer(offered, kinds)[0] == pytest.approx(least)

    def test_an_answer_is_kept_and_not_sought_again(self, tmp_path, monkeypatch):
        program = packing.program(TestThreeModelsOnThreeNodes.BASE, [CHEAP, DEAR])
        first = solve.solved(program, 5.0, tmp_path)
        monkeypatch.delattr(solve, "milp")
        assert solve.solved(program, 5.0, tmp_path) == first
        other = packing.program(TestThreeModelsOnThreeNodes.BASE, [CHEAP, replace(DEAR, nodes=0)])
        with pytest.raises(NameError):
            solve.solved(other, 5.0, tmp_path)


class TestInstances:
    def test_the_seed_says_all(self):
        assert generate(3, 5, 9) == generate(3, 5, 9)
        assert generate(3, 5, 9).cases != generate(4, 5, 9).cases

    def test_nodes_are_of_seven_kinds_and_profiles_no_copies(self):
        instance = generate(1, 12, 30)
        assert len(instance.nodes) == 30
        assert len(instance.kinds) == 7
        scarce = generate(1, 12, 30, ["g4dn.xlarge"])
        assert [kind.name for kind in scarce.nodes.values()].count("g4dn.xlarge") == 4
        assert (len(scarce.nodes), scarce.cases) == (30, instance.cases)
        assert len({case.profiles["p3.2xlarge"] for case in instance.cases}) == 12


class TestInside:
    def test_a_tolerance_is_the_last_that_is_borne(self):
        bound_by_more_than_the_device = bound_by_the_device = 0
        instance = generate(2, 6, 7)
        for case in instance.cases:
            for hardware in instance.kinds.values():
                parts = inside.ways(case, hardware.name, 1, CONFIG)
                borne = inside.tolerances(parts, case, hardware, CONFIG)
                for part, tolerance in zip(parts, borne, strict=True):
                    alone = inside.excess([part], [0.0], case, hardware, CONFIG)[0]
                    assert (tolerance >= 0) == (alone <= 0)
                    if tolerance >= 0:
                        just = inside.excess([part], [tolerance], case, hardware, CONFIG)[0]
                        more = inside.excess([part], [tolerance + 1e-4], case, hardware, CONFIG)[0]
                        assert just <= inside.SLACK
                        assert more > 0
                        bound_by_the_device += tolerance == CONFIG.utilisation_limit - (
                            part.utilisation
                        )
                        bound_by_more_than_the_device += part.utilisation + tolerance < 0.79
        assert bound_by_more_than_the_device > 5
        assert bound_by_the_device > 5

    def test_every_model_of_an_instance_can_be_served(self):
        instance = generate(5, 6, 7)
        posed = options.problem(instance, CONFIG)
        assert {one.model for one in posed.options} == {it.model.name for it in instance.cases}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return placement.compare(generate(1, 5, 14), 20.0, tmp_path_factory.mktemp("highs"))


class TestComparison:
    def test_both_placements_keep_the_rules_of_both(self, outcome):
        assert outcome.unserved == ()
        assert outcome.planner_breaks == ()
        assert outcome.planner_breaks_rows == ()
        assert outcome.solver_breaks == ()
        assert outcome.answer.proven
        assert outcome.above_best is not None
        assert outcome.above_best > -1e-9
        assert 1 <= sum(outcome.solver_nodes.values()) <= 5

    def test_a_planner_that_holds_more_than_is_asked_for_is_found_out(self):
        instance = generate(1, 2, 7)
        world = World(instance, CONFIG, foreseen=False)
        world.settle(quiet_s=1, limit_s=1)
        with pytest.raises(ValueError, match="held hardware for"):
            inside.check_demand(world.memory, instance)

    def test_a_placement_too_tight_is_found_out(self):
        instance = generate(1, 4, 14)
        hardware = instance.kinds["g4dn.xlarge"]
        node_id = next(it for it, kind in instance.nodes.items() if kind == hardware)
        together = [
            inside.ways(case, hardware.name, 1, CONFIG)[-1]
            for case in (*instance.cases, replace(instance.cases[0], requests_per_second=1e5))
        ]
        found = list(inside.violations({node_id: together}, instance, CONFIG))
        assert {it.what for it in found} >= {case.model.name for case in instance.cases}
        heavy = [replace(together[1], memory_bytes=17 * GIB)]
        found = list(inside.violations({node_id: heavy}, instance, CONFIG))
        assert "memory" in {it.what for it in found}

    def test_the_report_has_what_was_measured(self, tmp_path, outcome):
        timed = speed.measure(4, lambda _: None)
        for path in report.write(tmp_path, [timed], [outcome], 20.0):
            assert path.stat().st_size > 0
        figures = json.loads((tmp_path / "report.json").read_text())
        assert figures["placement"]["instances"][0]["highs_usd_per_hour"] == outcome.answer.cost
        assert figures["placement"]["above_best_worst"] == outcome.above_best
        assert figures["speed"][0]["full_s"] == list(timed.full.seconds)
        assert f"| {outcome.name} " in (tmp_path / "report.md").read_text()
