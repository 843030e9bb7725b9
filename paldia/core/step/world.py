"""A step under way: what is seen, what has been decided so far, and what that leaves."""

from __future__ import annotations

from dataclasses import replace

from paldia.core.baselines import Policy
from paldia.core.config import PolicyConfig
from paldia.core.observation import Action, Candidate, Decision, Memory, ModelPlan, Observation
from paldia.core.placement import selection
from paldia.core.placement.choice import Choice
from paldia.core.placement.occupancy import Fleet, demand_of
from paldia.core.placement.questions import Found, Question, Row
from paldia.core.step.changeover import changed_over
from paldia.core.step.memory import remember
from paldia.core.step.prospects import Prospects
from paldia.core.step.records import inputs_digest, recorded
from paldia.core.step.stability import loss_in_doubt


class World:
    """What all decisions of a step share, and change.

    Attributes:
        remembered: memories as they were; `memories`, as they have become.
        present: each model's way where it was planned to be when the step began; none until
            they have settled in.
        alarm: why nodes that seem to be lost are not given up; empty if nothing is in doubt.
        decisions: by model.
        spreads: models of which it was tried to divide their work further.
    """

    def __init__(
        self, observation: Observation, memory: Memory, config: PolicyConfig, policy: Policy
    ) -> None:
        self.observation = observation
        self.config = config
        self.policy = policy
        self.views = {view.model.name: view for view in observation.models}
        self.nodes = {node.node_id: node for node in observation.nodes}
        activation_s = max((n.hardware.activation_s for n in observation.nodes), default=0.0)
        self.memories = {
            name: remember(
                self.views[name],
                memory.get(name),
                observation,
                self.nodes,
                activation_s=activation_s,
                config=config,
            )
            for name in sorted(self.views)
        }
        self.plans = {
            name: observation.plan.get(name) or ModelPlan(name, self.views[name].model.generation)
            for name in self.memories
        }
        self.fleet = Fleet(observation.nodes)
        self.prospects = Prospects(self.fleet, config, policy)
        self.present: dict[str, Row] = {}
        self.alarm = loss_in_doubt(self.plans.values(), self.nodes, config)
        self.remembered = memory
        self.decisions: dict[str, Decision] = {}
        self.spreads = 0

    def settle_in(self) -> None:
        """Count what is planned into the fleet."""
        self.present = self.prospects.settle_in(self.plans, self.views, self.memories)

    def question(self, name: str, waiting: int) -> Question:
        """Ask for a model, of `waiting` that look for a place."""
        return Question(
            self.views[name],
            self.memories[name],
            self.plans[name].target,
            self.observation.now_s,
            self.policy,
            waiting,
            present=self.present.get(name),
        )

    def carry_out(
        self,
        question: Question,
        choice: Choice,
        options: tuple[Candidate, ...],
        found: list[Found],
    ) -> None:
        """Change the plan as chosen, and write it down; `found` has what each place takes."""
        view, memory, name = question.view, question.memory, question.view.model.name
        before = self.plans[name]
        digest = ""
        if choice.action is not Action.KEEP:
            digest = inputs_digest(question, options, self.fleet, self.config)
        after = changed_over(
            view,
            before,
            choice,
            self.nodes,
            question.now_s,
            slo_unreachable=self._slo_unreachable(question, options, choice),
        )
        self.plans[name] = after
        self.memories[name] = replace(
            memory,
            saving_since_s=choice.saving_since_s,
            judged_rate=demand_of(view, memory, 1).requests_per_second,
            judged_s=question.now_s,
        )
        self._settle(after, choice.candidate, found)
        self.decisions[name] = recorded(question, options, choice, before, after, digest=digest)

    def _settle(self, plan: ModelPlan, chosen: Candidate | None, found: list[Found]) -> None:
        """Count the plan in; one that no candidate stands for is counted as it was."""
        load = next(
            (
                each.load
                for each in found
                if each.load is not None and chosen and _same_way(each.candidate, chosen)
            ),
            None,
        )
        if plan.target and load is None:
            return
        left = self.fleet.forget(plan.model)
        nodes = [self.fleet.index[a.node_id] for a in plan.target]
        for index in nodes:
            if load is not None:
                self.fleet.add(index, load)
        retiring = {a.node_id for a in plan.retiring}
        for index, before in left:
            if self.fleet.ids[index] in retiring:
                used = 0.0 if index in nodes else before.used
                self.fleet.hold(index, plan.model, used, before.memory_bytes)

    def _slo_unreachable(
        self, question: Question, options: tuple[Candidate, ...], choice: Choice
    ) -> bool:
        """Whether no hardware keeps the SLO even once the present backlog is worked off."""
        if choice.candidate is None or choice.candidate.keeps_slo:
            return False
        if any(option.keeps_slo for option in options):
            return False
        if not question.calm:
            return True
        easier = selection.candidates(
            replace(question, kinds=question.calm), self.fleet, self.config
        )
        return not any(found.candidate.keeps_slo for found in easier)


def _same_way(one: Candidate, other: Candidate) -> bool:
    def facts(candidate: Candidate) -> list[tuple[str, int, int]]:
        return [(a.node_id, a.batch, a.lanes) for a in candidate.assignments]

    return facts(one) == facts(other)
