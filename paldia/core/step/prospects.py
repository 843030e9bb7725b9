"""What a step judges beforehand, for all models at once: the ways they have, and could have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from paldia.core.baselines import Policy
from paldia.core.config import PolicyConfig
from paldia.core.observation import ModelMemory, ModelPlan, ModelView
from paldia.core.placement.occupancy import Fleet, Load, demand_of
from paldia.core.placement.questions import Question, Row
from paldia.core.profiles import Profile
from paldia.core.sharing.asks import Ask, batches_per_demand
from paldia.core.sharing.costs import costs_of
from paldia.core.sharing.offers import divided, judged, measured
from paldia.core.types import Hardware

_Key: TypeAlias = tuple[str, float, int, int, tuple[tuple[str, int, int], ...]]
"""What of a question may differ in one step and says what is judged."""


@lru_cache(maxsize=1 << 16)
def least_work_s(profile: Profile, batch_limit: int) -> float:
    """Give the device-seconds that one request takes at least, in the best of batches."""
    largest = min(profile.largest_batch, batch_limit or profile.largest_batch)
    rows = np.arange(1, largest + 1)
    costs = costs_of(profile, 100)
    return float((costs.latency_s[rows] * costs.demand[rows] / rows).min())


class Prospects:
    """Judges many models at once, for the questions that are asked one by one in a step.

    What is expected of a model and which nodes are usable stays the same all through it.

    Attributes:
        most_nodes: usable nodes of the kind that has most of them.
    """

    def __init__(self, fleet: Fleet, config: PolicyConfig, policy: Policy) -> None:
        self._fleet = fleet
        self._config = config
        self._policy = policy
        self._known: dict[_Key, dict[str, Row]] = {}
        self._kinds: list[tuple[str, Hardware, int]] = []
        for name in fleet.hardware:
            usable = int(fleet.usable[fleet.part(name)].sum())
            self._kinds.append((name, fleet.at(fleet.part(name).start).hardware, usable))
        self.most_nodes = max((usable for _, _, usable in self._kinds), default=0)

    def settle_in(
        self,
        plans: Mapping[str, ModelPlan],
        views: Mapping[str, ModelView],
        memories: Mapping[str, ModelMemory],
    ) -> dict[str, Row]:
        """Count what is planned into the fleet, and give each model's present way.

        What is about to leave takes room where it still is.
        """
        spots = [
            (plan, index, assignment, profile, stays)
            for plan in plans.values()
            for assignments, stays in ((plan.target, True), (plan.retiring, False))
            for assignment in assignments
            if (profile := views[plan.model].profiles.get(assignment.hardware)) is not None
            and (index := self._fleet.index.get(assignment.node_id)) is not None
        ]
        if not spots:
            return {}
        asks = [
            self._ask(
                views[plan.model],
                memories[plan.model],
                len(plan.target if stays else plan.retiring),
                self._fleet.at(index).hardware,
                profile,
                sm_percent=assignment.sm_percent,
            )
            for plan, index, assignment, profile, stays in spots
        ]
        batches = [min(spot.batch, profile.largest_batch) for _, _, spot, profile, _ in spots]
        lanes = [spot.lanes for _, _, spot, _, _ in spots]
        offers = measured(asks, np.array([batches]).T, np.array([lanes]).T, self._config)
        rows: dict[str, Row] = {}
        for at, (plan, index, _, _, stays) in enumerate(spots):
            load = load_of(plan.model, Row(offers, at), 0)
            if stays:
                self._fleet.add(index, load)
                rows.setdefault(plan.model, Row(offers, at))
            else:
                # Beside its successor on the same node it takes memory only: one of them works.
                used = load.used if self._fleet.own(index, plan.model) is None else 0.0
                self._fleet.hold(index, plan.model, used, load.memory_bytes)
        return rows

    def tuned(self, questions: Sequence[Question]) -> list[Question]:
        """Find the best way that each model could have where it is."""
        asks, levels, known = [], [], []
        for question in questions:
            found = self._stay(question)
            known.append(found is not None)
            if found is not None:
                asks.append(found[0])
                levels.append([found[1]])
        if not asks:
            return list(questions)
        offers = judged(asks, self._policy.sharing, self._config, np.array(levels))
        rows = iter(range(len(asks)))
        return [
            replace(question, tuned=Row(offers, next(rows))) if there else question
            for question, there in zip(questions, known, strict=True)
        ]

    def _stay(self, question: Question) -> tuple[Ask, float] | None:
        """What a model asks of the nodes it has, and what others take of them at most."""
        fleet, name = self._fleet, question.view.model.name
        places = fleet.places(name)
        if question.present is None or not places:
            return None
        ask = question.present.ask
        own = [load for index in places if (load := fleet.own(index, name)) is not None]
        used = max(fleet.used_beside(index, name) for index in places)
        replaced = question.replaced(fleet)
        left_bytes = min(
            fleet.capacity_bytes[index]
            - fleet.used_bytes[index]
            + (0.0 if index in replaced else load.memory_bytes)
            for index, load in zip(places, own, strict=True)
        )
        most_lanes = int(left_bytes // max(1, ask.profile.memory_bytes))
        if most_lanes < 1:
            return None
        spot = question.current[0]
        return replace(ask, most_lanes=most_lanes, now=(spot.batch, spot.lanes)), used

    def judged(self, questions: Sequence[tuple[Question, float]]) -> list[Question]:
        """Judge all kinds of hardware for each model, which may use up that share of its SLO.

        Of the device it may use the same part of what may be planned for. What was asked
        before in this step is known.
        """
        keys = [self._key(question, margin) for question, margin in questions]
        new = {
            key: asked for key, asked in zip(keys, questions, strict=True) if key not in self._known
        }
        self._known.update(zip(new, self._on_kinds(list(new.values())), strict=True))
        return [
            replace(question, kinds=self._known[key])
            for (question, _), key in zip(questions, keys, strict=True)
        ]

    def _key(self, question: Question, margin: float) -> _Key:
        name, backlog = question.view.model.name, question.memory.backlog
        ways = tuple((a.hardware, a.batch, a.lanes) for a in question.current)
        return name, margin, min(question.spread, self.most_nodes), backlog, ways

    def _on_kinds(self, questions: Sequence[tuple[Question, float]]) -> list[dict[str, Row]]:
        """Judge all kinds of hardware for each; by kind, where the model could run."""
        pairs = [
            (at, kind, hardware, profile, usable)
            for at, (question, _) in enumerate(questions)
            for kind, hardware, usable in self._kinds
            if (profile := question.view.profiles.get(kind)) is not None
            and usable > 0
            and hardware.memory_bytes >= profile.memory_bytes
        ]
        kinds: list[dict[str, Row]] = [{} for _ in questions]
        if not pairs:
            return kinds
        config = self._config

        def ask(pair: int, nodes: int) -> Ask:
            at, kind, hardware, profile, _ = pairs[pair]
            question, margin = questions[at]
            now = next(((a.batch, a.lanes) for a in question.current if a.hardware == kind), None)
            view, memory = question.view, question.memory
            return self._ask(view, memory, nodes, hardware, profile, margin=margin, now=now)

        fewest, most = [], []
        for at, _, _, profile, usable in pairs:
            view, memory = questions[at][0].view, questions[at][0].memory
            least = min(max(questions[at][0].spread, view.model.min_replicas), usable)
            highest = max(least, min(usable, config.nodes_limit))
            rate = demand_of(view, memory, 1).requests_per_second
            work = rate * least_work_s(profile, view.model.max_batch)
            limit = config.utilisation_limit * questions[at][1] / config.margin
            fewest.append(min(highest, max(least, math.ceil(work / limit - 1e-6))))
            most.append(highest)
        offers = divided(np.array(fewest), np.array(most), ask, self._policy.sharing, self._config)
        for row, (at, kind, _, _, _) in enumerate(pairs):
            kinds[at][kind] = Row(offers, row)
        return kinds

    def _ask(
        self,
        view: ModelView,
        memory: ModelMemory,
        nodes: int,
        hardware: Hardware,
        profile: Profile,
        *,
        margin: float | None = None,
        now: tuple[int, int] | None = None,
        sm_percent: int = 100,
    ) -> Ask:
        config = self._config
        margin = config.margin if margin is None else margin
        demand = demand_of(view, memory, nodes)
        mean = view.demand.mean_requests_per_second
        return Ask(
            profile=profile,
            demand=demand,
            batch_limit=view.model.max_batch,
            most_lanes=hardware.memory_bytes // max(1, profile.memory_bytes),
            margin=margin,
            limit=config.utilisation_limit * margin / config.margin,
            batches_per_demand=batches_per_demand(hardware),
            now=now,
            sm_percent=sm_percent,
            mean=None if mean is None else replace(demand, requests_per_second=mean / nodes),
        )


def load_of(model: str, row: Row, way: int) -> Load:
    """Give what a way is to a node."""
    offers, at = row.offers, row.row
    return Load(
        model,
        float(offers.used[at, way]),
        float(offers.memory_bytes[at, way]),
        float(offers.tolerance[at, way]),
    )
