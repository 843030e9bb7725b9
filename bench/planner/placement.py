"""The planner's placements against the best that HiGHS finds, each checked by the other's rules."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.planner import inside, options, packing, solve
from bench.planner.drive import World
from bench.planner.inside import Part, Violation
from bench.planner.instances import Instance, generate
from bench.planner.options import Problem
from bench.planner.packing import Option
from bench.planner.solve import Answer
from paldia.core.config import PolicyConfig

MODELS, NODES = 50, 200
SCARCE = ((), ("g4dn.xlarge",), ("g4dn.xlarge", "g3s.xlarge"))
"""Kinds that instances have few of, in turn: one kind is so cheap for what it does that placements
on plenty of it would be all there is to see."""
QUIET_S, SETTLE_LIMIT_S = 45, 600
"""Longer than it takes until every model has been looked at again, and a saving has won."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One instance, planned and solved.

    Attributes:
        settled_s: until the planner changed nothing any more.
        planner_cpu_s: processor time of all its steps.
        unserved: models that the planner found no place for, or no place that keeps the SLO.
        planner_breaks: limits of its own that the planner's placement breaks;
            `planner_breaks_rows`, rows of the program that it breaks.
        solver_breaks: the planner's limits that HiGHS's placement breaks.
        not_offered: parts of the planner's placement to which no option of the program is equal
            or better: other numbers of nodes, or ways between those offered.
        first_usd_per_hour: what the first step's placement cost.
    """

    name: str
    planner_usd_per_hour: float
    first_usd_per_hour: float
    settled_s: int
    planner_cpu_s: float
    answer: Answer
    unserved: tuple[str, ...]
    planner_breaks: tuple[Violation, ...]
    planner_breaks_rows: tuple[Violation, ...]
    solver_breaks: tuple[Violation, ...]
    not_offered: int
    planner_nodes: Mapping[str, int]
    solver_nodes: Mapping[str, int]

    @property
    def above_best(self) -> float | None:
        """By what share the planner's placement costs more than HiGHS's best."""
        best = self.answer.cost
        return None if best is None else self.planner_usd_per_hour / best - 1

    @property
    def above_bound(self) -> float | None:
        """By what share it costs more than what HiGHS proved to be needed."""
        bound = self.answer.lower_bound
        return self.planner_usd_per_hour / bound - 1 if bound > 0 else None


def instances(count: int) -> Iterator[Instance]:
    """Give the instances to place."""
    for seed in range(1, count + 1):
        yield generate(seed, MODELS, NODES, SCARCE[(seed - 1) % len(SCARCE)])


def compare(instance: Instance, limit_s: float, kept: Path) -> Outcome:
    """Plan and solve one instance.

    Raises:
        ValueError: the planner planned for another demand than the program has; or see
            `solve.solve`.
    """
    config = PolicyConfig()
    world = World(instance, config, foreseen=True)
    start_s = time.process_time()
    world.settle(quiet_s=1, limit_s=1)
    first_usd_per_hour = world.cost_usd_per_hour()
    settled_s = 1 + world.settle(QUIET_S, SETTLE_LIMIT_S)
    planner_cpu_s = time.process_time() - start_s
    inside.check_demand(world.memory, instance)
    posed = options.problem(instance, config)
    program = packing.program(posed.options, posed.kinds)
    answer = solve.solved(program, limit_s, kept)
    planned = inside.parts_of(world.plan, instance)
    best = _parts(answer, program, posed, instance)
    return Outcome(
        name=instance.name,
        planner_usd_per_hour=world.cost_usd_per_hour(),
        first_usd_per_hour=first_usd_per_hour,
        settled_s=settled_s,
        planner_cpu_s=planner_cpu_s,
        answer=answer,
        unserved=tuple(_unserved(world, instance)),
        planner_breaks=tuple(inside.violations(planned, instance, config)),
        planner_breaks_rows=tuple(_rows_broken(planned, instance, config)),
        solver_breaks=tuple(inside.violations(best, instance, config)),
        not_offered=_not_offered(planned, posed, instance, config),
        planner_nodes=_by_kind(planned, instance),
        solver_nodes=_by_kind(best, instance),
    )


def _unserved(world: World, instance: Instance) -> Iterator[str]:
    """Give the models that the planner left without a place, or gave up on the SLO of."""
    for case in instance.cases:
        plan = world.plan[case.model.name]
        if not plan.target or plan.slo_unreachable:
            yield case.model.name


def _parts(
    answer: Answer, program: packing.Program, posed: Problem, instance: Instance
) -> dict[str, list[Part]]:
    """Give HiGHS's solution as parts on nodes of the instance."""
    free: dict[str, list[str]] = {}
    for node_id, kind in instance.nodes.items():
        free.setdefault(kind.name, []).append(node_id)
    return {
        free[posed.parts[held[0]].kind].pop(): [posed.parts[option] for option in held]
        for held in answer.nodes(program)
    }


def _as_option(part: Part, instance: Instance, config: PolicyConfig) -> Option:
    """Give a part of the planner's as the program would see it.

    A process that is held to a share of the SMs counts as one that isn't: it could be that,
    and be no worse.
    """
    case = next(case for case in instance.cases if case.model.name == part.model)
    hardware = instance.kinds[part.kind]
    whole = replace(part, sm_percent=100)
    (tolerance,) = inside.tolerances([whole], case, hardware, config)
    return options.option(whole, tolerance)


def _rows_broken(
    placed: Mapping[str, Sequence[Part]], instance: Instance, config: PolicyConfig
) -> list[Violation]:
    """Give the nodes of the planner's that hold more than the program's rows would let them."""
    broken = []
    for node_id, parts in placed.items():
        seen = [_as_option(part, instance, config) for part in parts]
        total = sum(one.demand for one in seen)
        least = min(one.bound for one in seen)
        if total > least * (1 + inside.SLACK):
            broken.append(Violation(node_id, "demand", total / max(least, 1e-9) - 1))
        held = sum(one.memory_bytes for one in seen) / instance.nodes[node_id].memory_bytes
        if held > 1:
            broken.append(Violation(node_id, "memory", held - 1))
    return broken


def _not_offered(
    placed: Mapping[str, Sequence[Part]],
    posed: Problem,
    instance: Instance,
    config: PolicyConfig,
) -> int:
    """Count the planner's parts to which no option is equal or better in all respects."""
    offered: dict[tuple[str, str, int], list[Option]] = {}
    for one in posed.options:
        offered.setdefault((one.model, one.kind, one.replicas), []).append(one)
    seen = [_as_option(part, instance, config) for parts in placed.values() for part in parts]
    return sum(
        not any(
            other.demand <= one.demand * (1 + inside.SLACK)
            and other.bound >= one.bound * (1 - inside.SLACK)
            and other.memory_bytes <= one.memory_bytes
            for other in offered.get((one.model, one.kind, one.replicas), ())
        )
        for one in seen
    )


def _by_kind(placed: Mapping[str, object], instance: Instance) -> dict[str, int]:
    counts = dict.fromkeys(instance.kinds, 0)
    for node_id in placed:
        counts[instance.nodes[node_id].name] += 1
    return {kind: count for kind, count in counts.items() if count}
