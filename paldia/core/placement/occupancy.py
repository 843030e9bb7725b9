"""Who is on which node, and what that leaves to a newcomer.

Two numbers say whether a newcomer fits: how much of the device others take, which it must
bear, and the node's slack, which is how much more of it those who are there bear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paldia.core.observation import ModelMemory, ModelView, NodeView
from paldia.core.sharing.asks import TINY
from paldia.core.sharing.prediction import Demand
from paldia.core.types import NodeState

_IDLE = {NodeState.ACTIVE: 0.5, NodeState.ACTIVATING: 0.25}
"""Preference for nodes that hold nothing but are there, or about to be."""


@dataclass(frozen=True, slots=True)
class Load:
    """One model's share of work on one node.

    Attributes:
        used: share of the device that its batches take on average.
        memory_bytes: memory of all its lanes.
        tolerance: greatest share that others may take before it loses its SLO.
    """

    model: str
    used: float
    memory_bytes: float
    tolerance: float


def demand_of(view: ModelView, memory: ModelMemory, nodes: int) -> Demand:
    """Give one node's share of a model's demand when `nodes` nodes divide it."""
    return Demand(
        requests_per_second=memory.expected_rate / nodes,
        dispersion=memory.rate.dispersion,
        backlog=math.ceil(memory.backlog / nodes),
        slo=view.model.slo,
    )


class Fleet:
    """The nodes and the loads planned on them; a step's working copy.

    Nodes are counted by kind of hardware and then by id, and all that is asked of many at
    once is kept in arrays in that order.

    Attributes:
        used: share of each device that is taken; `used_bytes` of its memory; `count`, loads.
        slack: how much more of it those who are there bear. Who bears too much already sets
            no bound: the newcomer isn't what hurts it.
        preference: greater for the nodes to fill first: those that run, the fullest before, and
            then those that are there.
    """

    def __init__(self, nodes: Iterable[NodeView]) -> None:
        ordered = sorted(nodes, key=lambda node: (node.hardware.name, node.node_id))
        self.views = tuple(ordered)
        self.nodes = {node.node_id: node for node in ordered}
        self.ids = tuple(self.nodes)
        self.index = {node_id: index for index, node_id in enumerate(self.ids)}
        kinds: dict[str, list[int]] = {}
        for index, node in enumerate(ordered):
            kinds.setdefault(node.hardware.name, []).append(index)
        self.hardware = tuple(kinds)
        self._kinds = {name: slice(held[0], held[-1] + 1) for name, held in kinds.items()}
        self.kind = np.repeat(np.arange(len(kinds)), [len(held) for held in kinds.values()])
        self.price_usd_per_hour = np.array([n.hardware.price_usd_per_hour for n in ordered])
        self.capacity_bytes = np.array([float(max(1, n.hardware.memory_bytes)) for n in ordered])
        self.usable = np.array([node.usable for node in ordered], dtype=np.bool_)
        self.used = np.zeros(len(ordered))
        self.used_bytes = np.zeros(len(ordered))
        self.count = np.zeros(len(ordered), dtype=np.int64)
        self.slack = np.full(len(ordered), math.inf)
        self._idle = np.array([_IDLE.get(node.state, 0.0) for node in ordered])
        self.preference = self._idle.copy()
        self._held = np.zeros(len(ordered))
        self._held_bytes = np.zeros(len(ordered))
        self._leaving: dict[str, list[tuple[int, float, float]]] = {}
        self._loads: list[dict[str, Load]] = [{} for _ in ordered]
        self._places: dict[str, list[int]] = {}

    def part(self, hardware: str) -> slice:
        """Where the nodes of one kind are."""
        return self._kinds[hardware]

    def of_kind(self, hardware: str) -> npt.NDArray[np.int64]:
        """The nodes of one kind, by index."""
        part = self._kinds[hardware]
        return np.arange(part.start, part.stop)

    def at(self, index: int) -> NodeView:
        """Give a node."""
        return self.views[index]

    def places(self, model: str) -> list[int]:
        """Where a model is."""
        return self._places.get(model, [])

    def add(self, index: int, load: Load) -> None:
        """Put a load on a node that has none of this model."""
        self._loads[index][load.model] = load
        self._places.setdefault(load.model, []).append(index)
        self._sum_up(index)

    def forget(self, model: str) -> list[tuple[int, Load]]:
        """Take a model's loads off, and give them."""
        taken = [(index, self._loads[index].pop(model)) for index in self._places.pop(model, [])]
        for index, _ in taken:
            self._sum_up(index)
        return taken

    def put(self, model: str, loads: Iterable[tuple[int, Load]]) -> None:
        """Put a model's loads in place of those it has."""
        self.forget(model)
        for index, load in loads:
            self.add(index, load)

    def hold(self, index: int, model: str, used: float, memory_bytes: float) -> None:
        """Count in what is about to leave a node, and takes room until it has."""
        self._held[index] += used
        self._held_bytes[index] += memory_bytes
        self._leaving.setdefault(model, []).append((index, used, memory_bytes))
        self._sum_up(index)

    def leaving(self, model: str) -> list[tuple[int, float, float]]:
        """Nodes that a model is about to leave, with what it takes of each until it has."""
        return self._leaving.get(model, [])

    def lift(self) -> dict[str, list[tuple[int, float, float]]]:
        """Take off all that is about to leave, and give it; `hold` puts it back."""
        lifted, self._leaving = self._leaving, {}
        for held in lifted.values():
            for index, _, _ in held:
                self._held[index] = self._held_bytes[index] = 0.0
                self._sum_up(index)
        return lifted

    def _sum_up(self, index: int) -> None:
        """Summed anew each time, so that rounding doesn't add up."""
        loads = self._loads[index].values()
        used = float(self._held[index]) + sum(load.used for load in loads)
        self.used[index] = used
        self.used_bytes[index] = self._held_bytes[index] + sum(load.memory_bytes for load in loads)
        self.count[index] = len(loads)
        self.slack[index] = _slack(loads, used)
        filled = max(used, self.used_bytes[index] / self.capacity_bytes[index])
        self.preference[index] = 1 + filled if loads else self._idle[index]

    def loads(self, index: int) -> list[Load]:
        """The loads on a node."""
        return list(self._loads[index].values())

    def own(self, index: int, model: str) -> Load | None:
        """A model's load on a node."""
        return self._loads[index].get(model)

    def is_hurt(self, index: int, model: str) -> bool:
        """Whether a model that bears some company has too much of it on a node."""
        own = self._loads[index][model]
        others = self.used[index] - own.used
        return bool(0 <= own.tolerance < others - TINY)

    def used_beside(self, index: int, model: str) -> float:
        """Share of a device that others than a model take."""
        others = (load.used for name, load in self._loads[index].items() if name != model)
        return float(self._held[index]) + sum(others)

    def slack_beside(self, index: int, model: str) -> float:
        """How much of a node a model may take so that the others there bear it."""
        others = [load for name, load in self._loads[index].items() if name != model]
        own = self._loads[index].get(model)
        return _slack(others, self.used_beside(index, model), own.used if own else 0.0)

    def first_hurt(self, index: int, model: str) -> str:
        """Name the model on the node that bears least of a newcomer."""
        others = [load for name, load in self._loads[index].items() if name != model]
        return min(others, key=lambda load: (load.tolerance + load.used, load.model)).model


def _slack(loads: Iterable[Load], used: float, newcomer: float = 0.0) -> float:
    """How much a newcomer may take of a device of which others than it take `used` together.

    `newcomer` is what it takes already: who bears not even that doesn't count.
    """
    spare = (load.tolerance - (used - load.used) for load in loads)
    return min((room for room in spare if room >= newcomer - TINY), default=math.inf)
