"""Who is on which node, and what that leaves to a newcomer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from paldia.core.config import PolicyConfig
from paldia.core.forecast import pending_requests
from paldia.core.observation import Assignment, ModelMemory, ModelPlan, ModelView, NodeView
from paldia.core.profiles import Profile
from paldia.core.sharing import ALONE, Neighbours, busy_share, completion_time_s, throughput
from paldia.core.types import Slo


@dataclass(frozen=True, slots=True)
class Load:
    """One model's share of work on one node.

    Attributes:
        requests_per_second: what reaches this node; `backlog` likewise.
        slo: the model's objective.
    """

    model: str
    profile: Profile
    requests_per_second: float
    dispersion: float
    backlog: int
    slo: Slo
    batch: int
    lanes: int

    @property
    def batches_running(self) -> float:
        """Mean number of its batches that run."""
        return busy_share(self.profile, self.batch, self.requests_per_second)

    @property
    def utilisation(self) -> float:
        """Share of the device it uses on average."""
        return self.batches_running * self.profile.demand_fraction

    def pending(self, beside: Neighbours, config: PolicyConfig) -> int:
        """Requests to be served at a bad moment: those ahead, and the one that asks."""
        capacity = throughput(self.profile, self.batch, self.lanes, beside)
        waiting = pending_requests(
            self.requests_per_second, self.dispersion, capacity, self.slo, config.burst_z
        )
        return 1 + max(self.backlog, math.ceil(waiting))

    def latency_s(self, beside: Neighbours, config: PolicyConfig) -> float:
        """Predicted seconds until the last of the requests pending at a bad moment is done."""
        pending = self.pending(beside, config)
        return completion_time_s(self.profile, pending, self.batch, self.lanes, beside)


def load_of(view: ModelView, memory: ModelMemory, profile: Profile, nodes: int) -> Load:
    """Give one node's share of a model's work when `nodes` nodes of a kind divide it."""
    return Load(
        model=view.model.name,
        profile=profile,
        requests_per_second=memory.rate.requests_per_second / nodes,
        dispersion=memory.rate.dispersion,
        backlog=math.ceil(view.demand.backlog / nodes),
        slo=view.model.slo,
        batch=1,
        lanes=1,
    )


class Fleet:
    """The nodes and the loads planned on them; a step's working copy.

    Sums over a node's loads are kept, for every candidate asks for them.
    """

    def __init__(self, nodes: Iterable[NodeView]) -> None:
        self.nodes = {node.node_id: node for node in sorted(nodes, key=lambda n: n.node_id)}
        self._loads: dict[str, dict[str, Load]] = {node_id: {} for node_id in self.nodes}
        self._sums: dict[str, Neighbours] = dict.fromkeys(self.nodes, ALONE)
        self._places: dict[str, list[str]] = {}
        self._kinds: dict[str, list[NodeView]] = {}
        for node in self.nodes.values():
            self._kinds.setdefault(node.hardware.name, []).append(node)

    @property
    def hardware(self) -> list[str]:
        """The kinds of hardware, by name."""
        return sorted(self._kinds)

    def of_kind(self, hardware: str) -> list[NodeView]:
        """The nodes of one kind, by id."""
        return self._kinds.get(hardware, [])

    def put(self, plan: ModelPlan, view: ModelView, memory: ModelMemory) -> None:
        """Count a plan's target in; what it planned before is forgotten."""
        for node_id in self._places.pop(plan.model, []):
            del self._loads[node_id][plan.model]
            self._sum(node_id)
        for assignment in plan.target:
            profile = view.profiles.get(assignment.hardware)
            if profile is not None and assignment.node_id in self._loads:
                load = load_of(view, memory, profile, len(plan.target))
                self._loads[assignment.node_id][plan.model] = sized(load, assignment)
                self._places.setdefault(plan.model, []).append(assignment.node_id)
                self._sum(assignment.node_id)

    def _sum(self, node_id: str) -> None:
        loads = self._loads[node_id].values()
        self._sums[node_id] = Neighbours(
            demand=sum(load.utilisation for load in loads),
            batches=sum(load.batches_running for load in loads),
        )

    def others(self, node_id: str, model: str) -> list[Load]:
        """The loads on a node besides a model's own."""
        return [load for name, load in self._loads[node_id].items() if name != model]

    def is_free(self, node_id: str, model: str) -> bool:
        """Whether nothing but `model` is on a node."""
        return not self._loads[node_id].keys() - {model}

    def beside(self, node_id: str, model: str) -> Neighbours:
        """What other models do on a node, as seen by `model`."""
        own = self._loads[node_id].get(model)
        return self._sums[node_id] if own is None else _without(self._sums[node_id], own)

    def memory_left_bytes(self, node_id: str, model: str) -> int:
        """Memory on a node that other models leave."""
        used = sum(load.profile.memory_bytes * load.lanes for load in self.others(node_id, model))
        return self.nodes[node_id].hardware.memory_bytes - used

    def first_hurt(self, node_id: str, newcomer: Load, config: PolicyConfig) -> str | None:
        """Name a model on the node whose SLO the newcomer would break, if there is one."""
        before = self.beside(node_id, newcomer.model)
        after = Neighbours(
            before.demand + newcomer.utilisation, before.batches + newcomer.batches_running
        )
        for load in self.others(node_id, newcomer.model):
            limit_s = config.margin * load.slo.latency_s
            if load.latency_s(_without(after, load), config) > limit_s:
                alone_s = load.latency_s(_without(self._sums[node_id], load), config)
                if alone_s <= limit_s:
                    return load.model
        return None


def _without(all_of_them: Neighbours, load: Load) -> Neighbours:
    return Neighbours(
        max(0.0, all_of_them.demand - load.utilisation),
        max(0.0, all_of_them.batches - load.batches_running),
    )


def sized(load: Load, assignment: Assignment) -> Load:
    """Give the load with an assignment's batch size and lanes."""
    return replace(load, batch=assignment.batch, lanes=assignment.lanes)
