"""All that this benchmark knows of the planner's insides: what a placement is judged by.

The rest of it calls `engine.step` and nothing else, so that a change of the planner that keeps
the meaning of its predictions touches this module alone.

To the planner the neighbours of a model on a device are one number, the share of the device
that they take on average; so each part of a model's work bears neighbours up to some number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.planner.instances import Case, Instance
from paldia.core.config import PolicyConfig
from paldia.core.forecast.base import RateEstimate
from paldia.core.observation import ModelMemory, Plan
from paldia.core.sharing.asks import batches_per_demand
from paldia.core.sharing.prediction import Demand, Neighbours, Way, batch_sizes, predict
from paldia.core.types import Hardware

SLACK = 1e-6
"""Relative difference below which a limit counts as kept: sums come in different orders."""
_HALVINGS = 16
_WHOLE = 100


@dataclass(frozen=True, slots=True)
class Part:
    """One of the equal parts of a model's work, as a node would do it.

    Attributes:
        utilisation: share of the device that it takes on average.
        memory_bytes: of all its lanes.
    """

    model: str
    kind: str
    replicas: int
    batch: int
    lanes: int
    sm_percent: int
    utilisation: float
    memory_bytes: int


def settled_memory(case: Case, now_s: float) -> ModelMemory:
    """Give what the planner remembers of a model whose demand has long been what it is."""
    rate = case.requests_per_second
    return ModelMemory(
        rate=RateEstimate(rate, case.dispersion, 3600.0, rate, 1.0), last_used_s=now_s
    )


def has_pending_savings(memories: Mapping[str, ModelMemory]) -> bool:
    """Whether the planner is waiting before it acts on a saving."""
    return any(memory.saving_since_s is not None for memory in memories.values())


def check_demand(memories: Mapping[str, ModelMemory], instance: Instance) -> None:
    """See that the planner held hardware for the demand of the instance, no more and no less.

    Raises:
        ValueError: it didn't; what it costs can't be compared then.
    """
    for case in instance.cases:
        held, rate = memories[case.model.name].expected_rate, case.requests_per_second
        if abs(held - rate) > SLACK * rate:
            raise ValueError(
                f"the planner held hardware for {held:g} requests/s of {case.model.name}, not for "
                f"{rate:g}: hand it the demand in a way that leaves nothing to be forecast"
            )


def parts_of(plan: Plan, instance: Instance) -> dict[str, list[Part]]:
    """Give what a plan's targets put on each node."""
    cases = {case.model.name: case for case in instance.cases}
    placed: dict[str, list[Part]] = {}
    for name, model_plan in plan.items():
        for spot in model_plan.target:
            part = _part(
                cases[name],
                spot.hardware,
                len(model_plan.target),
                batch=spot.batch,
                lanes=spot.lanes,
                sm_percent=spot.sm_percent,
            )
            placed.setdefault(spot.node_id, []).append(part)
    return placed


def _part(case: Case, kind: str, replicas: int, *, batch: int, lanes: int, sm_percent: int) -> Part:
    profile = case.profiles[kind]
    busy = case.requests_per_second / replicas / batch * profile.latency_s(batch, sm_percent)
    return Part(
        case.model.name,
        kind,
        replicas,
        batch,
        lanes,
        sm_percent,
        busy * profile.demand_fraction(batch, sm_percent),
        profile.memory_bytes * lanes,
    )


def ways(case: Case, kind: str, replicas: int, config: PolicyConfig) -> list[Part]:
    """Give every part that the planner may make of a model: all batch sizes and lanes.

    Lanes beyond those that fill the device are none of them. The SM share stays whole: with
    less of it a model's own batches take longer, and its neighbours gain nothing.
    """
    profile = case.profiles[kind]
    limit = min(profile.largest_batch, case.model.max_batch or profile.largest_batch)
    return [
        _part(case, kind, replicas, batch=batch, lanes=lanes, sm_percent=_WHOLE)
        for batch in batch_sizes(limit)
        for lanes in range(1, config.lanes_limit + 1)
        if lanes - 1 < 1 / profile.demand_fraction(batch)
    ]


def excess(
    parts: Sequence[Part],
    others: Sequence[float],
    case: Case,
    hardware: Hardware,
    config: PolicyConfig,
) -> Any:
    """Give by what share each of a model's parts passes the worst of its limits.

    At 0 or less all are kept: predicted latency within the margin of the SLO, rate within the
    limit of the capacity, and the device's utilisation. All parts are of one kind, number of
    replicas and SM share; `others` is what others take of each one's device.
    """
    first = parts[0]
    way = Way(
        case.profiles[first.kind],
        np.array([part.batch for part in parts]),
        np.array([part.lanes for part in parts]),
        first.sm_percent,
    )
    crowd = np.asarray(others, dtype=np.float64)
    rate = case.requests_per_second / first.replicas
    foretold = predict(
        way,
        Demand(rate, case.dispersion, 0, case.model.slo),
        Neighbours(crowd, crowd * batches_per_demand(hardware)),
        config,
        lanes_limit=max(part.lanes for part in parts),
    )
    limit = config.utilisation_limit
    busy = np.array([part.utilisation for part in parts]) + crowd
    slow = np.nan_to_num(foretold.latency_s / (config.margin * case.model.slo.latency_s), nan=1e9)
    return np.maximum(np.maximum(slow, rate / (limit * foretold.capacity)), busy / limit) - 1


def tolerances(
    parts: Sequence[Part], case: Case, hardware: Hardware, config: PolicyConfig
) -> list[float]:
    """Give the greatest share of the device that others may take beside each part.

    Negative if it can't even be alone. Parts as for `excess`.
    """
    most = np.array([config.utilisation_limit - part.utilisation for part in parts])
    low, high = np.zeros(len(parts)), np.maximum(0.0, most)
    alone = excess(parts, low.tolist(), case, hardware, config) <= 0
    bears = excess(parts, high.tolist(), case, hardware, config) <= SLACK
    low = np.where(bears, high, low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        bears = excess(parts, middle.tolist(), case, hardware, config) <= 0
        low, high = np.where(bears, middle, low), np.where(bears, high, middle)
    return [float(value) for value in np.where(alone & (most >= 0), low, -1.0)]


@dataclass(frozen=True, slots=True)
class Violation:
    """A limit that a placement breaks, and by what share."""

    node_id: str
    what: str
    excess: float


def violations(
    placed: Mapping[str, Iterable[Part]], instance: Instance, config: PolicyConfig
) -> Iterator[Violation]:
    """Give what a placement breaks of what the planner itself demands."""
    cases = {case.model.name: case for case in instance.cases}
    for node_id, parts in placed.items():
        hardware, held = instance.nodes[node_id], list(parts)
        memory = sum(part.memory_bytes for part in held) / hardware.memory_bytes - 1
        if memory > 0:
            yield Violation(node_id, "memory", memory)
        for part in held:
            others = sum(other.utilisation for other in held if other is not part)
            passed = excess([part], [others], cases[part.model], hardware, config)[0]
            if passed > SLACK:
                yield Violation(node_id, part.model, float(passed))
