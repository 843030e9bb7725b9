"""Room for those who keep their SLO nowhere: a neighbour that keeps its own elsewhere makes way.

Nobody does while another still leaves a place that would do. Who it was for is judged again at
once, and moves in as it would anywhere.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from paldia.core.observation import Action, Assignment, Candidate, Decision
from paldia.core.placement import selection
from paldia.core.placement.choice import Choice, is_changing
from paldia.core.placement.questions import Found, Question
from paldia.core.placement.standing import held_to_share
from paldia.core.sharing.asks import TINY
from paldia.core.step.world import World

_SUFFERERS_LIMIT = 4
_NEIGHBOURS_LIMIT = 8
"""Models looked at in one step: those that need room, and for each those that could make some."""
_AT_REST = (Action.KEEP, Action.TUNE)


def relieve(world: World) -> None:
    """Have a neighbour make way for each model that keeps its SLO nowhere as the nodes are."""
    names = [name for name, decision in sorted(world.decisions.items()) if _suffers(decision)]
    for name in names[:_SUFFERERS_LIMIT]:
        (question,) = world.prospects.judged([(world.question(name, 1), world.config.margin)])
        if _place_once_left(world, question) or any(
            _makes_way(world, question, neighbour) for neighbour in _neighbours(world, question)
        ):
            world.memories[name] = replace(world.memories[name], judged_s=-math.inf)


def _suffers(decision: Decision) -> bool:
    if decision.chosen is None:
        return decision.action is Action.UNPLACED
    return decision.action in _AT_REST and not decision.chosen.keeps_slo


def _place_once_left(world: World, question: Question) -> Found | None:
    """Give a place that keeps the SLO once all that is about to leave has left."""
    fleet = world.fleet
    lifted = fleet.lift()
    found = selection.candidates(question, fleet, world.config)
    for model, held in lifted.items():
        for index, used, memory_bytes in held:
            fleet.hold(index, model, used, memory_bytes)
    return _best(found)


def _neighbours(world: World, question: Question) -> list[str]:
    """Give those without whom a node might have room enough, the least first."""
    fleet, name = world.fleet, question.view.model.name
    least: dict[str, float] = {}
    for kind, row in question.kinds.items():
        offers, at = row.offers, row.row
        bears = np.minimum(offers.tolerance[at], row.ask.limit - offers.used[at])
        for index in fleet.of_kind(kind).tolist():
            if not fleet.usable[index]:
                continue
            own = fleet.own(index, name)
            used = fleet.used_beside(index, name)
            left_bytes = fleet.capacity_bytes[index] - fleet.used_bytes[index]
            left_bytes += own.memory_bytes if own else 0.0
            for load in fleet.loads(index):
                fits = (used - load.used <= bears + TINY) & (
                    offers.memory_bytes[at] <= left_bytes + load.memory_bytes
                )
                if load.model != name and fits.any() and _may_make_way(world, load.model):
                    least[load.model] = max(least.get(load.model, 0.0), load.used)
    return sorted(least, key=lambda model: (least[model], model))[:_NEIGHBOURS_LIMIT]


def _may_make_way(world: World, name: str) -> bool:
    """Whether a model serves as planned, and stays by itself."""
    plan, decision = world.plans[name], world.decisions.get(name)
    if plan.retiring or plan.slo_unreachable or is_changing(plan, world.nodes):
        return False
    return decision is None or decision.action in _AT_REST


def _makes_way(world: World, question: Question, name: str) -> bool:
    """Move a model if it keeps its SLO elsewhere, and the one in need does in its place."""
    fleet, sufferer = world.fleet, question.view.model.name
    taken = fleet.forget(name)
    wanted = _place_once_left(world, question)
    left = {index for index, _ in taken}
    if wanted is None or left.isdisjoint(_nodes(world, wanted)):
        fleet.put(name, taken)
        return False
    # Until it has moved in it works where it is as well: who makes way must bear that, too.
    own = [
        (index, load) for index in fleet.places(sufferer) if (load := fleet.own(index, sufferer))
    ]
    for index in _nodes(world, wanted):
        if wanted.load is not None and fleet.own(index, sufferer) is None:
            fleet.add(index, wanted.load)
    (asked,) = world.prospects.judged([(world.question(name, 1), world.config.margin)])
    found = selection.candidates(asked, fleet, world.config)
    fleet.put(sufferer, own)
    fleet.put(name, taken)
    place = _best(found)
    if place is None:
        return False
    chosen = held_to_share(asked, place.candidate, fleet, world.config)
    before = world.plans[name].target
    why = f"makes way on {', '.join(sorted(fleet.ids[index] for index in left))} for {sufferer}"
    choice = Choice(_kind(before, chosen), f"{why}: {chosen.detail}", chosen)
    world.carry_out(asked, choice, tuple(each.candidate for each in found), [*found])
    return True


def _best(found: tuple[Found, ...]) -> Found | None:
    """Give the place to take, if the SLO is kept there."""
    best = selection.pick([each.candidate for each in found])
    if best is None or not best.feasible:
        return None
    return next(each for each in found if each.candidate is best)


def _nodes(world: World, found: Found) -> list[int]:
    return [world.fleet.index[a.node_id] for a in found.candidate.assignments]


def _kind(before: tuple[Assignment, ...], chosen: Candidate) -> Action:
    if {a.place for a in before} == {a.place for a in chosen.assignments}:
        return Action.TUNE
    return Action.SCALE if before[0].hardware == chosen.hardware else Action.MOVE
