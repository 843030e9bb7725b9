"""One step of planning: observation and memory in; plan, memory and decisions out.

The stages, in order: forecast demand, remember failures, decide whether the model is
wanted at all, judge every kind of hardware, choose, and change over without a gap.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from paldia.core import scaling, selection
from paldia.core.config import PolicyConfig
from paldia.core.memory import remember, state_of
from paldia.core.observation import (
    Action,
    Assignment,
    Candidate,
    Decision,
    DeploymentState,
    Memory,
    ModelMemory,
    ModelPlan,
    ModelView,
    Observation,
    Plan,
)
from paldia.core.placement import Fleet
from paldia.core.selection import Question
from paldia.core.types import NodeState


@dataclass(frozen=True, slots=True)
class Step:
    """What a step decided: `decisions` holds one for each model, by name."""

    plan: Plan
    memory: Memory
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    action: Action
    reason: str
    candidate: Candidate | None
    saving_since_s: float | None = None


def step(observation: Observation, memory: Memory, config: PolicyConfig) -> Step:
    """Plan for every model, in order of name, each seeing what those before it chose."""
    views = sorted(observation.models, key=lambda view: view.model.name)
    remembered = {
        view.model.name: remember(view, memory.get(view.model.name), observation, config)
        for view in views
    }
    fleet = Fleet(observation.nodes)
    for view in views:
        name = view.model.name
        if name in observation.plan:
            fleet.put(observation.plan[name], view, remembered[name])
    plans: dict[str, ModelPlan] = {}
    decisions = []
    for view in views:
        name = view.model.name
        plan, learned, decision = _decide(view, remembered[name], observation, fleet, config)
        fleet.put(plan, view, learned)
        plans[name], remembered[name] = plan, learned
        decisions.append(decision)
    return Step(plans, remembered, tuple(decisions))


def _decide(
    view: ModelView,
    memory: ModelMemory,
    observation: Observation,
    fleet: Fleet,
    config: PolicyConfig,
) -> tuple[ModelPlan, ModelMemory, Decision]:
    model = view.model
    before = observation.plan.get(model.name) or ModelPlan(model.name, model.generation)
    question = Question(view, memory, before.target, observation.now_s)
    options = selection.candidates(question, fleet, config)
    if scaling.wanted(view, memory, observation.now_s):
        choice = _choose(question, options, before, fleet, config)
    else:
        reason = f"unused for {model.keep_alive_s:g} s and no replica has to be kept"
        choice = _Choice(Action.UNLOAD if before.target else Action.KEEP, reason, None)
    unreachable = _slo_unreachable(question, options, choice, fleet, config)
    plan = _change_over(view, before, choice, observation, slo_unreachable=unreachable)
    decision = Decision(
        decided_s=observation.now_s,
        model=model.name,
        generation=model.generation,
        action=choice.action,
        reason=choice.reason,
        rate=memory.rate,
        backlog=view.demand.backlog,
        candidates=options,
        chosen=choice.candidate,
        slo_unreachable=unreachable,
        inputs_digest=("" if choice.action is Action.KEEP else _digest(question, fleet, config)),
        before=before.target,
        after=plan.target,
    )
    return plan, replace(memory, saving_since_s=choice.saving_since_s), decision


def _choose(
    question: Question,
    options: tuple[Candidate, ...],
    before: ModelPlan,
    fleet: Fleet,
    config: PolicyConfig,
) -> _Choice:
    """Stay, or go: at once where the SLO is at stake, patiently where only money is."""
    best = selection.pick(options)
    now = selection.standing(question, fleet, config)
    if now is None:
        if best is None:
            return _Choice(Action.UNPLACED, "no node can take it: " + _why_not(options), None)
        verb = "move" if before.target else "place"
        lost = "its node can't go on; " if before.target else ""
        return _Choice(Action(verb), f"{lost}{_praise(best)}", best)
    if any(a.artifact_digest != question.view.model.artifact_digest for a in before.target):
        chosen = now if now.feasible or best is None or not best.feasible else best
        return _Choice(Action.UPDATE, f"a new artifact; {_praise(chosen)}", chosen)
    if best is None or _places(best) == _places(now):
        return _stay(now, before, _praise(now))
    if _changing(before, fleet):
        return _stay(now, before, f"{now.hardware} is still starting: {now.detail}")
    if best.feasible and not now.feasible:
        return _Choice(_kind(now, best), f"{now.hardware}: {now.detail}; {_praise(best)}", best)
    if not _worth_it(now, best, question.view.model.slo.latency_s, config):
        return _stay(now, before, f"{_better_than(now, best)}, but not by enough to move")
    since_s = question.memory.saving_since_s
    won_s = 0.0 if since_s is None else question.now_s - since_s
    if won_s < config.wait_limit_s:
        first_s = question.now_s if since_s is None else since_s
        staying = _stay(now, before, f"{_better_than(now, best)}, but has to win for longer")
        return replace(staying, saving_since_s=first_s)
    return _Choice(_kind(now, best), f"better for {won_s:.1f} s: {_praise(best)}", best)


def _stay(now: Candidate, before: ModelPlan, reason: str) -> _Choice:
    if now.assignments != before.target:
        return _Choice(Action.TUNE, f"the same place is better used: {now.detail}", now)
    return _Choice(Action.KEEP, reason, now)


def _changing(plan: ModelPlan, fleet: Fleet) -> bool:
    """Whether the target is still starting; its backlog says nothing about its merits yet."""
    return any(
        state_of(fleet.nodes.get(a.node_id), plan.model, a) is not DeploymentState.READY
        for a in plan.target
    )


def _worth_it(now: Candidate, best: Candidate, slo_latency_s: float, config: PolicyConfig) -> bool:
    """Whether a move that nothing forces would pay: money saved well within the SLO, or a
    clearly lower latency where the SLO can't be met at all."""
    if not now.feasible:
        return best.latency_s < now.latency_s * (1 - config.improvement)
    cheaper = (best.added_usd_per_hour, best.price_usd_per_hour) < (
        now.added_usd_per_hour,
        now.price_usd_per_hour,
    )
    tighter = config.saving_margin / config.margin
    safe = (
        best.latency_s <= config.saving_margin * slo_latency_s
        and best.utilisation <= config.utilisation_limit * tighter
    )
    return cheaper and best.feasible and safe


def _kind(now: Candidate, best: Candidate) -> Action:
    return Action.SCALE if now.hardware == best.hardware else Action.MOVE


def _places(candidate: Candidate) -> set[tuple[str, str]]:
    return {assignment.place for assignment in candidate.assignments}


def _better_than(now: Candidate, best: Candidate) -> str:
    return f"{now.hardware} goes on ({now.detail}); {best.hardware} is better ({best.detail})"


def _praise(best: Candidate) -> str:
    quality = "the cheapest that keeps the SLO" if best.feasible else "the fastest there is"
    return f"{best.hardware} is {quality}: {best.detail}"


def _why_not(options: tuple[Candidate, ...]) -> str:
    return "; ".join(f"{option.hardware}: {option.detail}" for option in options) or "no node"


def _slo_unreachable(
    question: Question,
    options: tuple[Candidate, ...],
    choice: _Choice,
    fleet: Fleet,
    config: PolicyConfig,
) -> bool:
    """Whether no hardware keeps the SLO even once the present backlog is worked off."""
    if choice.candidate is None or any(option.keeps_slo for option in options):
        return False
    calm = replace(question.view.demand, backlog=0)
    easier = replace(question, view=replace(question.view, demand=calm))
    return not any(o.keeps_slo for o in selection.candidates(easier, fleet, config))


def _change_over(
    view: ModelView,
    before: ModelPlan,
    choice: _Choice,
    observation: Observation,
    *,
    slo_unreachable: bool,
) -> ModelPlan:
    """Make before break: what serves goes on until all of the new target is ready."""
    nodes = {node.node_id: node for node in observation.nodes}

    def ready(assignment: Assignment) -> bool:
        node = nodes.get(assignment.node_id)
        alive = node is not None and node.state is not NodeState.LOST
        return alive and state_of(node, before.model, assignment) is DeploymentState.READY

    if choice.action is Action.UNLOAD:
        target: tuple[Assignment, ...] = ()
    elif choice.candidate is None:
        target = before.target
    else:
        target = choice.candidate.assignments
    places = {assignment.place for assignment in target}
    moved = places != {assignment.place for assignment in before.target}
    complete = all(ready(assignment) for assignment in target)
    retiring = (
        ()
        if complete
        else tuple(a for a in before.assignments if a.place not in places and ready(a))
    )
    return ModelPlan(
        model=before.model,
        generation=view.model.generation,
        target=target,
        retiring=retiring,
        slo_unreachable=slo_unreachable,
        since_s=observation.now_s if moved else before.since_s,
    )


def _digest(question: Question, fleet: Fleet, config: PolicyConfig) -> str:
    """Fingerprint of all that the decision depends on."""
    name = question.view.model.name
    loads = [(node_id, fleet.others(node_id, name)) for node_id in fleet.nodes]
    facts = repr((question, sorted(fleet.nodes.items()), loads, config))
    return hashlib.sha256(facts.encode()).hexdigest()
