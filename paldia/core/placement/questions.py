"""What a decision asks: one model, what was judged of it, and the fleet as it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from paldia.core.baselines import PALDIA, Policy
from paldia.core.config import PolicyConfig
from paldia.core.observation import Assignment, Candidate, ModelMemory, ModelView
from paldia.core.placement.occupancy import Fleet, Load
from paldia.core.sharing.asks import Ask
from paldia.core.sharing.offers import Offers

_HERE = 4.0
"""What is added to a node's preference where the model is; more than any other part of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One of the rows of what was judged."""

    offers: Offers
    row: int

    @property
    def ask(self) -> Ask:
        """What it was judged for."""
        return self.offers.asks[self.row]


@dataclass(frozen=True, slots=True)
class Hint:
    """The nodes that a model should ask for, and the way to share them, for the good of all."""

    nodes: tuple[int, ...]
    way: int = -1


@dataclass(frozen=True, slots=True)
class Question:
    """One model asking for a place.

    Attributes:
        current: where it is planned to be now.
        waiting: models that look for a place at this moment, this one included.
        spread: nodes that its work is divided over at least.
        kinds: what was judged, by kind of hardware.
        calm: the same as if no requests waited, where that was judged.
        hint: where it should go, of those who look for a place together.
        present: its way where it is now, and `tuned`, the best there is for it there.
    """

    view: ModelView
    memory: ModelMemory
    current: tuple[Assignment, ...]
    now_s: float
    policy: Policy = PALDIA
    waiting: int = 1
    spread: int = 1
    kinds: Mapping[str, Row] = field(default_factory=dict)
    calm: Mapping[str, Row] = field(default_factory=dict)
    hint: Hint | None = None
    present: Row | None = None
    tuned: Row | None = None

    def without_backlog(self) -> Question:
        """Give the question as if no requests waited."""
        return replace(self, memory=replace(self.memory, backlog=0))

    def replaced(self, fleet: Fleet) -> frozenset[int]:
        """Nodes where another artifact serves, and takes memory until this one does."""
        digest = self.view.model.artifact_digest
        return frozenset(
            fleet.index[a.node_id]
            for a in self.current
            if a.artifact_digest != digest and a.node_id in fleet.index
        )

    def held(self, fleet: Fleet) -> frozenset[int]:
        """Nodes where it is held to a share of the SMs.

        A process keeps the share it started with: only as it is can it go on there.
        """
        return frozenset(
            fleet.index[a.node_id]
            for a in self.current
            if a.sm_percent < 100 and a.node_id in fleet.index
        )

    def avoided(self, fleet: Fleet) -> frozenset[int]:
        """Nodes on which the model failed to start a short while ago."""
        return frozenset(
            fleet.index[node_id]
            for node_id, until_s in self.memory.avoid
            if until_s > self.now_s and node_id in fleet.index
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate, and what it would be to each of its nodes; None if it can't run."""

    candidate: Candidate
    load: Load | None = None


class Seen:
    """The fleet as one model sees it: without itself.

    Attributes:
        avoided: nodes on which it failed to start a short while ago; `closed` are these and
            those where it is held to a share of the SMs.
        config, rule: the policy's constants, and how it shares a device.
        used: share of each device that others take, `left_bytes` of memory that they leave.
        room: share of it that the others bear to lose; below 0 where it may not go at all.
        preference: the greater the better.
    """

    def __init__(self, question: Question, fleet: Fleet, config: PolicyConfig) -> None:
        model = question.view.model.name
        self.fleet = fleet
        self.model = model
        self.avoided = question.avoided(fleet)
        self.used, self.preference, slack = fleet.used, fleet.preference, fleet.slack
        self.left_bytes = fleet.capacity_bytes - fleet.used_bytes
        self.limit = config.utilisation_limit
        self.config, self.rule = config, question.policy.sharing
        places, leaving = fleet.places(model), fleet.leaving(model)
        if places or leaving:
            self.used, self.preference, slack = (
                array.copy() for array in (fleet.used, fleet.preference, fleet.slack)
            )
        self.running = fleet.count > 0
        replaced = question.replaced(fleet)
        for index in places:
            own = fleet.own(index, model)
            if own is not None:
                self.used[index] = fleet.used_beside(index, model)
                if index not in replaced:
                    self.left_bytes[index] += own.memory_bytes
                slack[index] = fleet.slack_beside(index, model)
                self.running[index] = fleet.count[index] > 1
                self.preference[index] += _HERE
        for index, used, memory_bytes in leaving:
            self.used[index] = max(0.0, self.used[index] - used)
            if index not in places:
                self.left_bytes[index] += memory_bytes
            slack[index] += used
            self.preference[index] += _HERE
        self.closed = self.avoided | question.held(fleet)
        self.usable = fleet.usable
        if self.closed:
            self.usable = fleet.usable.copy()
            self.usable[sorted(self.closed)] = False
        self.room = np.where(self.usable, slack, -1.0)
