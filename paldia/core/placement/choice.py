"""Stay, or go: at once where the SLO is at stake, patiently where it is only about money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    Action,
    Candidate,
    DeploymentState,
    ModelPlan,
    NodeView,
    state_of,
)
from paldia.core.placement import selection
from paldia.core.placement.occupancy import Fleet, demand_of
from paldia.core.placement.questions import Question


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of a model: the action, why, where, and since when a saving wins."""

    action: Action
    reason: str
    candidate: Candidate | None
    saving_since_s: float | None = None


def choose(
    question: Question,
    options: Sequence[Candidate],
    now: Candidate | None,
    before: ModelPlan,
    *,
    fleet: Fleet,
    config: PolicyConfig,
) -> Choice:
    """Choose among the candidates, and the place that the model has, if it can go on there."""
    rate = demand_of(question.view, question.memory, 1).requests_per_second
    best = selection.pick(options, question.waiting, rate)
    if now is None:
        if best is None:
            return Choice(Action.UNPLACED, "no node can take it: " + _why_not(options), None)
        verb = "move" if before.target else "place"
        lost = "its node can't go on; " if before.target else ""
        return Choice(Action(verb), f"{lost}{_praise(best)}", best)
    if any(a.artifact_digest != question.view.model.artifact_digest for a in before.target):
        chosen = now if now.feasible or best is None or not best.feasible else best
        return Choice(Action.UPDATE, f"a new artifact; {_praise(chosen)}", chosen)
    if question.policy.moves and (back := _way_back(now, options, before, fleet)) is not None:
        return Choice(_kind(now, back), f"called off; {now.hardware}: {now.detail}", back)
    if best is None or _places(best) == _places(now) or not question.policy.moves:
        return _stay(now, before, _praise(now))
    if is_changing(before, fleet.nodes) and (now.feasible or not best.feasible):
        return _stay(now, before, f"{now.hardware} is still starting: {now.detail}")
    if best.feasible and not now.feasible:
        return Choice(_kind(now, best), f"{now.hardware}: {now.detail}; {_praise(best)}", best)
    if not _worth_it(now, best, _start_usd(question, best, fleet), rate, config):
        return _stay(now, before, f"{_better_than(now, best)}, but not by enough to move")
    since_s = question.memory.saving_since_s
    won_s = 0.0 if since_s is None else question.now_s - since_s
    if won_s < config.wait_limit_s:
        first_s = question.now_s if since_s is None else since_s
        staying = _stay(now, before, f"{_better_than(now, best)}, but has to win for longer")
        return replace(staying, saving_since_s=first_s)
    return Choice(_kind(now, best), f"better for {won_s:.1f} s: {_praise(best)}", best)


def _stay(now: Candidate, before: ModelPlan, reason: str) -> Choice:
    if now.assignments != before.target:
        return Choice(Action.TUNE, f"the same place is better used: {now.detail}", now)
    return Choice(Action.KEEP, reason, now)


def is_changing(plan: ModelPlan, nodes: Mapping[str, NodeView]) -> bool:
    """Whether the target is still starting."""
    return any(
        state_of(nodes.get(a.node_id), plan.model, a) is not DeploymentState.READY
        for a in plan.target
    )


def _way_back(
    now: Candidate, options: Sequence[Candidate], before: ModelPlan, fleet: Fleet
) -> Candidate | None:
    """Give what a model is about to leave, if the target is still starting and won't do now."""
    if now.feasible or not before.retiring or not is_changing(before, fleet.nodes):
        return None
    places = {assignment.place for assignment in before.retiring}
    return next((each for each in options if each.feasible and _places(each) <= places), None)


def _start_usd(question: Question, best: Candidate, fleet: Fleet) -> float:
    """Price of the time for which nodes that are opened are paid before they serve."""
    profile = question.view.profiles.get(best.hardware)
    load_s = profile.load_s if profile else 0.0
    hardware = fleet.nodes[best.assignments[0].node_id].hardware
    opened = sum(fleet.count[fleet.index[a.node_id]] == 0 for a in best.assignments)
    start_s = hardware.activation_s + load_s
    return float(opened * hardware.price_usd_per_hour * start_s / 3600)


def pays(saved_usd_per_hour: float, start_usd: float, config: PolicyConfig) -> bool:
    """Whether a move has saved within `payback_s` what it costs."""
    return saved_usd_per_hour * config.payback_s / 3600 > start_usd


def _worth_it(
    now: Candidate,
    best: Candidate,
    start_usd: float,
    requests_per_second: float,
    config: PolicyConfig,
) -> bool:
    """Whether a move that nothing forces would pay: money saved well within the SLO, or a
    clearly lower latency where the SLO can't be met at all.

    What is well within the SLO has been decided when the candidates were judged.
    """
    # Both keep the SLO, and are only fewer replicas than are wanted.
    too_few = not now.feasible and now.keeps_slo and best.keeps_slo
    if too_few and len(best.assignments) > len(now.assignments):
        return True
    if now.feasible or too_few:
        saved = now.added_usd_per_hour - best.added_usd_per_hour
        return (best.feasible or too_few) and pays(saved, start_usd, config)
    behind = requests_per_second > now.throughput
    if behind != (requests_per_second > best.throughput):
        return behind
    return best.latency_s < now.latency_s * (1 - config.improvement)


def _kind(now: Candidate, best: Candidate) -> Action:
    return Action.SCALE if now.hardware == best.hardware else Action.MOVE


def _places(candidate: Candidate) -> set[tuple[str, str]]:
    return {assignment.place for assignment in candidate.assignments}


def _better_than(now: Candidate, best: Candidate) -> str:
    return f"{now.hardware} goes on ({now.detail}); {best.hardware} is better ({best.detail})"


def _praise(best: Candidate) -> str:
    quality = "the cheapest that keeps the SLO" if best.feasible else "the fastest there is"
    return f"{best.hardware} is {quality}: {best.detail}"


def _why_not(options: Sequence[Candidate]) -> str:
    return "; ".join(f"{option.hardware}: {option.detail}" for option in options) or "no node"
