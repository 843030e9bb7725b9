"""Which hardware a model should have: filter, score, pick, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    Assignment,
    Candidate,
    ModelMemory,
    ModelView,
    NodeView,
    Verdict,
)
from paldia.core.placement import Fleet, Load, load_of
from paldia.core.profiles import Profile
from paldia.core.sharing import Neighbours, batch_sizes, throughput

REASONS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Question:
    """One model asking for a place."""

    view: ModelView
    memory: ModelMemory
    current: tuple[Assignment, ...]
    now_s: float

    def avoids(self, node_id: str) -> bool:
        """Whether the model failed to start there a short while ago."""
        return any(name == node_id and until_s > self.now_s for name, until_s in self.memory.avoid)


def candidates(question: Question, fleet: Fleet, config: PolicyConfig) -> tuple[Candidate, ...]:
    """Judge every kind of hardware, by name."""
    return tuple(_judge_kind(question, name, fleet, config) for name in fleet.hardware)


def pick(options: Sequence[Candidate]) -> Candidate | None:
    """Take the feasible candidate that adds least to the bill, else the fastest.

    Ties go to the lower price, then the lower latency, then the name.
    """
    feasible = [option for option in options if option.feasible]
    if feasible:
        return min(
            feasible,
            key=lambda c: (c.added_usd_per_hour, c.price_usd_per_hour, c.latency_s, c.hardware),
        )
    servable = [option for option in options if option.servable]
    return min(servable, key=lambda c: (c.latency_s, c.hardware), default=None)


def standing(question: Question, fleet: Fleet, config: PolicyConfig) -> Candidate | None:
    """Judge the nodes the model is on now; None if it can't go on there."""
    nodes = [fleet.nodes.get(assignment.node_id) for assignment in question.current]
    present = [node for node in nodes if node is not None and node.usable]
    if not present or len(present) < len(nodes) or any(question.avoids(n.node_id) for n in present):
        return None
    profile = question.view.profiles.get(present[0].hardware.name)
    if profile is None:
        return None
    candidate = _judge_nodes(question, profile, present, fleet, config)
    return candidate if candidate.servable else None


def _judge_kind(question: Question, hardware: str, fleet: Fleet, config: PolicyConfig) -> Candidate:
    profiles = question.view.profiles
    if hardware not in profiles:
        return Candidate(hardware, Verdict.UNPROFILED, "not measured yet")
    profile = profiles[hardware]
    if profile is None:
        return Candidate(hardware, Verdict.CANNOT_RUN, "the model could not be loaded there")
    nodes = _by_preference(question, hardware, fleet)
    if not nodes:
        return Candidate(
            hardware, Verdict.NOT_ENOUGH_NODES, _why_no_node(question, hardware, fleet)
        )
    fewest = min(max(1, question.view.model.min_replicas), len(nodes))
    most = max(fewest, min(len(nodes), config.nodes_limit))
    best: Candidate | None = None
    for choice in _choices(question, nodes, fewest, most, fleet):
        option = _judge_nodes(question, profile, choice, fleet, config)
        if option.feasible:
            return option
        if best is None or option.latency_s < best.latency_s * (1 - config.improvement):
            best = option
    return best or Candidate(hardware, Verdict.NOT_ENOUGH_NODES, "no node of that kind")


def _choices(
    question: Question, nodes: list[NodeView], fewest: int, most: int, fleet: Fleet
) -> Iterator[list[NodeView]]:
    """Give the sets of nodes worth judging, the smaller and the preferred first.

    A full node must not stand in the way of an idle one, so of the smallest size all
    neighbours in the order of preference are tried, of larger ones also the idlest.
    """
    for first in range(len(nodes) - fewest + 1):
        yield nodes[first : first + fewest]
    name = question.view.model.name
    idlest = sorted(nodes, key=lambda node: (fleet.beside(node.node_id, name).demand, node.node_id))
    for count in range(fewest + 1, most + 1):
        yield nodes[:count]
        if idlest[:count] != nodes[:count]:
            yield idlest[:count]


def _by_preference(question: Question, hardware: str, fleet: Fleet) -> list[NodeView]:
    """Order the nodes of a kind: where the model is, then the least busy that run anyway."""
    here = {assignment.node_id for assignment in question.current}
    name = question.view.model.name
    usable = [
        node
        for node in fleet.of_kind(hardware)
        if node.usable and not question.avoids(node.node_id)
    ]
    return sorted(
        usable,
        key=lambda node: (
            node.node_id not in here,
            fleet.is_free(node.node_id, name),
            fleet.beside(node.node_id, name).demand,
            node.node_id,
        ),
    )


def _why_no_node(question: Question, hardware: str, fleet: Fleet) -> str:
    nodes = fleet.of_kind(hardware)
    reasons = []
    for node in nodes[:REASONS_SHOWN]:
        if node.problem:
            reasons.append(f"{node.node_id}: {node.problem}")
        elif question.avoids(node.node_id):
            reasons.append(f"{node.node_id}: the model failed to start there a short while ago")
        else:
            reasons.append(f"{node.node_id} is {node.state.value}")
    more = len(nodes) - len(reasons)
    return "; ".join(reasons) + (f"; and {more} more" if more else "")


def _judge_nodes(
    question: Question,
    profile: Profile,
    nodes: Sequence[NodeView],
    fleet: Fleet,
    config: PolicyConfig,
) -> Candidate:
    """Judge a set of nodes of one kind that would divide the model's work evenly."""
    model = question.view.model
    load = load_of(question.view, question.memory, profile, len(nodes))
    # The node with the busiest neighbours answers last, so it decides.
    crowded = max(nodes, key=lambda node: fleet.beside(node.node_id, model.name).demand)
    beside = fleet.beside(crowded.node_id, model.name)
    free_bytes = min(fleet.memory_left_bytes(node.node_id, model.name) for node in nodes)
    most_lanes = min(config.lanes_limit, free_bytes // max(1, profile.memory_bytes))
    hardware = nodes[0].hardware
    if most_lanes < 1:
        return Candidate(
            hardware.name,
            Verdict.MEMORY,
            f"needs {profile.memory_bytes >> 20} MiB, {max(0, free_bytes) >> 20} MiB are free",
        )
    chosen = _share(question, load, beside, most_lanes, config)
    verdict, detail = _verdict(chosen, beside, config)
    keeps_slo = verdict is Verdict.FEASIBLE
    if verdict is Verdict.FEASIBLE:
        for node in nodes:
            hurt = fleet.first_hurt(node.node_id, chosen, config)
            if hurt is not None:
                verdict = Verdict.NEIGHBOUR
                detail = f"would break the SLO of {hurt} on {node.node_id}"
                break
    if len(nodes) < model.min_replicas:
        verdict = Verdict.NOT_ENOUGH_NODES
        detail = f"{len(nodes)} usable, {model.min_replicas} replicas wanted; {detail}"
    return Candidate(
        hardware=hardware.name,
        verdict=verdict,
        detail=detail,
        keeps_slo=keeps_slo,
        assignments=tuple(
            Assignment(
                node.node_id, hardware.name, model.artifact_digest, chosen.lanes, chosen.batch
            )
            for node in nodes
        ),
        latency_s=chosen.latency_s(beside, config),
        throughput=throughput(profile, chosen.batch, chosen.lanes, beside) * len(nodes),
        price_usd_per_hour=hardware.price_usd_per_hour * len(nodes),
        added_usd_per_hour=sum(
            node.hardware.price_usd_per_hour
            for node in nodes
            if fleet.is_free(node.node_id, model.name)
        ),
        utilisation=chosen.utilisation + beside.demand,
    )


def _share(
    question: Question,
    load: Load,
    beside: Neighbours,
    most_lanes: int,
    config: PolicyConfig,
) -> Load:
    """Choose batch size and lanes: the least latency among those that keep up.

    Measured latencies differ by `improvement` from day to day, so what differs by less is a
    tie. Ties go to what runs now, then to fewer lanes, then to smaller batches.
    """
    limit = load.profile.largest_batch
    if question.view.model.max_batch:
        limit = min(limit, question.view.model.max_batch)
    # Lanes beyond those that fill the device only get in each other's way.
    useful_lanes = min(most_lanes, math.ceil(1 / load.profile.demand_fraction))
    options = [
        replace(load, batch=batch, lanes=lanes)
        for lanes in range(1, useful_lanes + 1)
        for batch in batch_sizes(limit)
    ]
    able = [option for option in options if _keeps_up(option, beside, config)] or options
    times_s = [option.latency_s(beside, config) for option in able]
    tie_s = min(times_s) / (1 - config.improvement)
    tied = [option for option, time_s in zip(able, times_s, strict=True) if time_s <= tie_s]
    for assignment in question.current:
        now = replace(load, batch=assignment.batch, lanes=assignment.lanes)
        if question.view.profiles.get(assignment.hardware) is load.profile and now in tied:
            return now
    return min(tied, key=lambda option: (option.lanes, option.batch))


def _keeps_up(load: Load, beside: Neighbours, config: PolicyConfig) -> bool:
    capacity = throughput(load.profile, load.batch, load.lanes, beside)
    return (
        load.requests_per_second <= config.utilisation_limit * capacity
        and load.utilisation + beside.demand <= config.utilisation_limit
    )


def _verdict(load: Load, beside: Neighbours, config: PolicyConfig) -> tuple[Verdict, str]:
    capacity = throughput(load.profile, load.batch, load.lanes, beside)
    limit = config.utilisation_limit
    if load.requests_per_second > limit * capacity:
        return Verdict.THROUGHPUT, (
            f"{load.requests_per_second:.1f} requests/s expected, "
            f"{limit * capacity:.1f} at {limit:.0%} of its {capacity:.1f}"
        )
    if load.utilisation + beside.demand > limit:
        return Verdict.UTILISATION, (
            f"it would be {load.utilisation + beside.demand:.0%} busy, "
            f"{beside.demand:.0%} with other models; the limit is {limit:.0%}"
        )
    latency_s = load.latency_s(beside, config)
    allowed_s = config.margin * load.slo.latency_s
    facts = (
        f"{latency_s * 1e3:.0f} ms with {load.pending(beside, config)} pending "
        f"(batch {load.batch}, {load.lanes} at once); {allowed_s * 1e3:.0f} ms allowed"
    )
    return (Verdict.LATENCY if latency_s > allowed_s else Verdict.FEASIBLE), facts
