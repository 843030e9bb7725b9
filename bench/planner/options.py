"""From an instance to the packing problem: what the planner may choose, as options.

On each kind of hardware a model is divided over as few nodes as can serve it, as the planner
does; of all batch sizes and lane counts there those that need least or bear most are offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.planner import inside
from bench.planner.inside import Part
from bench.planner.instances import Case, Instance
from bench.planner.packing import Kind, Option
from paldia.core.config import PolicyConfig
from paldia.core.types import Hardware

REPLICAS_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """What may be chosen from: `parts` has, for each option, what each of its nodes does."""

    options: tuple[Option, ...]
    parts: tuple[Part, ...]
    kinds: tuple[Kind, ...]


def problem(instance: Instance, config: PolicyConfig) -> Problem:
    """Give the packing problem that an instance poses."""
    offers = [
        offer
        for case in instance.cases
        for hardware in instance.kinds.values()
        for offer in _telling(_offers(case, hardware, config))
    ]
    options = tuple(option for option, _ in offers)
    return Problem(options, tuple(part for _, part in offers), _kinds(options, instance))


def option(part: Part, tolerance: float) -> Option:
    """Give the option to do a model's work in such parts."""
    return Option(
        part.model, part.kind, part.replicas, part.utilisation, tolerance, part.memory_bytes
    )


def _offers(case: Case, hardware: Hardware, config: PolicyConfig) -> Iterator[tuple[Option, Part]]:
    """Give what can be served on nodes of its own, by the least number of them."""
    for replicas in range(1, REPLICAS_LIMIT + 1):
        parts = [
            part
            for part in inside.ways(case, hardware.name, replicas, config)
            if part.memory_bytes <= hardware.memory_bytes
        ]
        if not parts:
            return
        borne = inside.tolerances(parts, case, hardware, config)
        if max(borne) >= 0:
            for part, tolerance in zip(parts, borne, strict=True):
                if tolerance >= 0:
                    yield option(part, tolerance), part
            return


def _telling(offers: Iterable[tuple[Option, Part]]) -> list[tuple[Option, Part]]:
    """Of the ways of one model on one kind take those that are best in one respect.

    The respects: least demand, most tolerant in all, least memory; among equals the other two
    decide. The few that are best in none are left out to keep the problem small.
    """
    every = list(offers)
    orders: tuple[Callable[[Option], tuple[float, ...]], ...] = (
        lambda one: (one.demand, -one.bound, one.memory_bytes),
        lambda one: (-one.bound, one.demand, one.memory_bytes),
        lambda one: (one.memory_bytes, one.demand, -one.bound),
    )
    best = {min(every, key=lambda offer: order(offer[0])): None for order in orders if every}
    return list(best)


def _kinds(options: Sequence[Option], instance: Instance) -> tuple[Kind, ...]:
    """Give the kinds with as many nodes as the cheapest solution can have of them.

    It costs no more than every model on nodes of its own.
    """
    price = {name: kind.price_usd_per_hour for name, kind in instance.kinds.items()}
    apart: dict[str, float] = {}
    for one in options:
        alone = price[one.kind] * one.replicas
        apart[one.model] = min(apart.get(one.model, alone), alone)
    ceiling = sum(apart.values())
    there = [kind.name for kind in instance.nodes.values()]
    return tuple(
        Kind(
            name,
            kind.price_usd_per_hour,
            kind.memory_bytes,
            min(there.count(name), int(ceiling / kind.price_usd_per_hour)),
        )
        for name, kind in instance.kinds.items()
    )
