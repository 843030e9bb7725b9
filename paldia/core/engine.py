"""One step of planning: observation and memory in; plan, memory and decisions out.

The stages, in order: remember demand and failures, pass over what is settled, judge all the
rest on every kind of hardware at once, choose one by one, each seeing what those before it
chose, make room for those who keep their SLO nowhere, empty nodes that others can do without, and
change over without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from paldia.core.baselines import PALDIA, Policy
from paldia.core.config import PolicyConfig
from paldia.core.observation import Action, Candidate, Decision, Memory, Observation, Plan
from paldia.core.placement import selection
from paldia.core.placement.choice import Choice, choose
from paldia.core.placement.eligible import eligible
from paldia.core.placement.questions import Found, Question
from paldia.core.placement.standing import held_to_share, standing
from paldia.core.step import scaling
from paldia.core.step.docket import questions
from paldia.core.step.emptying import consolidate
from paldia.core.step.relief import relieve
from paldia.core.step.stability import is_lost
from paldia.core.step.world import World

SPREADS = (2, 3, 4, 6, 8, 12, 16)
"""Numbers of nodes that work is divided over where fewer nodes have no room for it."""
SPREADS_LIMIT = 16
"""Models of which that is tried in one step."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step decided.

    `decisions` holds one for each model that was judged, by name; a model that serves a
    demand like the one it was last judged for is passed over, and keeps its plan. `alarm` says
    why nodes that seem to be lost are not given up; empty if nothing is in doubt.
    """

    plan: Plan
    memory: Memory
    decisions: tuple[Decision, ...]
    alarm: str = ""


def step(
    observation: Observation, memory: Memory, config: PolicyConfig, policy: Policy = PALDIA
) -> Step:
    """Plan for every model, each seeing what those before it chose."""
    world = World(observation, memory, config, policy)
    for question in questions(world):
        _decide(world, question)
    if policy.moves and not world.alarm:
        relieve(world)
        consolidate(world)
    decisions = tuple(world.decisions[name] for name in sorted(world.decisions))
    return Step(world.plans, world.memories, decisions, world.alarm)


def _decide(world: World, question: Question) -> None:
    found = selection.candidates(question, world.fleet, world.config)
    now = standing(question, world.fleet, world.config)
    if not any(each.candidate.feasible for each in [*found, *([now] if now else [])]):
        question, found = _spread(world, question, found)
    options = tuple(_or_here(option, now).candidate for option in found)
    choice = _choice(world, question, options, now)
    world.carry_out(question, choice, options, [*found, *([now] if now else [])])


def _spread(
    world: World, question: Question, found: tuple[Found, ...]
) -> tuple[Question, tuple[Found, ...]]:
    """Divide the work over more nodes than would be needed, where those that are have less room.

    Only for so many models in one step; the others' turn comes when they are judged again.
    """
    able = [row.offers.tolerance[row.row].max() >= 0 for row in question.kinds.values()]
    if not any(able) or world.spreads >= SPREADS_LIMIT or not question.policy.moves:
        return question, found
    world.spreads += 1
    margin = world.config.margin
    # Beyond the nodes that any kind has, a greater number is the same.
    wider = [
        replace(question, spread=count)
        for fewer, count in zip((0, *SPREADS), SPREADS, strict=False)
        if count <= world.config.nodes_limit and fewer < world.prospects.most_nodes
    ]
    for each in world.prospects.judged([(one, margin) for one in wider]):
        places = selection.candidates(each, world.fleet, world.config)
        if any(place.candidate.feasible for place in places):
            return each, places
    return question, found


def _choice(
    world: World,
    question: Question,
    options: tuple[Candidate, ...],
    now: Found | None,
) -> Choice:
    model = question.view.model
    before = world.plans[model.name]
    if not scaling.wanted(question.view, question.memory, question.now_s):
        reason = f"unused for {model.keep_alive_s:g} s and no replica has to be kept"
        return Choice(Action.UNLOAD if before.target else Action.KEEP, reason, None)
    if world.alarm and any(is_lost(a.node_id, world.nodes) for a in before.target):
        return Choice(Action.KEEP, world.alarm, None)
    looked_at = eligible(world.policy.hardware, options, question.view, world.fleet)
    here = now.candidate if now else None
    looked_at = selection.as_hinted(question, looked_at, world.fleet)
    choice = choose(question, looked_at, here, before, fleet=world.fleet, config=world.config)
    if choice.candidate is None or choice.candidate is here:
        return choice
    held = held_to_share(question, choice.candidate, world.fleet, world.config)
    return replace(choice, candidate=held)


def _or_here(option: Found, now: Found | None) -> Found:
    """Show of the kind the model is on its place there, unless a better one was found."""
    here = now is not None and now.candidate.hardware == option.candidate.hardware
    return now if here and now is not None and not option.candidate.feasible else option
