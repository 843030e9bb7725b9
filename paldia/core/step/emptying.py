"""Carrying out proposals to do without some nodes, once they have won for long enough."""

from __future__ import annotations

from dataclasses import replace

from paldia.core.observation import Action
from paldia.core.placement import selection
from paldia.core.placement.choice import Choice, is_changing
from paldia.core.placement.consolidation import Consolidation, Proposal, due, pending
from paldia.core.placement.standing import held_to_share
from paldia.core.step.world import World


def consolidate(world: World) -> None:
    """Carry out one of the proposals that have won for long enough, and look for others.

    Where nothing had to be decided, nothing has changed that could bring a new one.
    """
    if not world.decisions:
        return
    now_s, wait_s = world.observation.now_s, world.config.wait_limit_s
    nodes = [node for node in range(len(world.fleet.ids)) if _may_be_emptied(world, node)]
    groups = pending(world.fleet, nodes, world.remembered, world.memories)
    last_s = max((memory.judged_s for memory in world.remembered.values()), default=now_s)
    every_s = world.config.review_s
    waiting = [node for group in groups.values() for node in group]
    free = [node for node in nodes if node not in waiting]
    turns, beside = due(world.fleet, free, max(last_s, now_s - every_s), now_s, every_s)
    looked_at = [*waiting, *turns, *beside]
    if not waiting and not turns:
        return
    names = [load.model for node in looked_at for load in world.fleet.loads(node)]
    strict = world.config.saving_margin
    questions = world.prospects.judged([(world.question(name, 1), strict) for name in names])
    consolidation = Consolidation(questions, world.fleet, world.config)
    mature: Proposal | None = None
    for begun_s, group in sorted(groups.items()):
        since_s = min(begun_s, now_s)
        proposal = consolidation.without(group)
        if proposal is not None:
            _wait(world, proposal, since_s)
            mature = mature or (proposal if now_s - since_s >= wait_s else None)
    new = consolidation.search(turns, beside, now_s)
    if new is not None:
        _wait(world, new, now_s)
        mature = mature or (new if wait_s == 0 else None)
    if mature is not None:
        _empty(world, mature)


def _may_be_emptied(world: World, node: int) -> bool:
    loads = world.fleet.loads(node)
    return bool(loads) and all(_may_move(world, load.model) for load in loads)


def _may_move(world: World, name: str) -> bool:
    """Whether a model serves from the one node it has, as planned, and stays by itself."""
    plan, memory = world.plans[name], world.memories[name]
    decision = world.decisions.get(name)
    if decision is not None and decision.action not in (Action.KEEP, Action.TUNE):
        return False
    if len(plan.target) != 1 or plan.retiring or plan.slo_unreachable or memory.avoid:
        return False
    if memory.saving_since_s is not None and decision is not None:
        return False
    if plan.target[0].artifact_digest != world.views[name].model.artifact_digest:
        return False
    return not is_changing(plan, world.nodes)


def _wait(world: World, proposal: Proposal, since_s: float) -> None:
    for question in proposal.questions:
        name = question.view.model.name
        world.memories[name] = replace(world.memories[name], saving_since_s=since_s)


def _empty(world: World, proposal: Proposal) -> None:
    ids = ", ".join(world.fleet.ids[node] for node in proposal.nodes)
    why = f"empties {ids}, saves {proposal.saved_usd_per_hour:.3f} USD/h"
    for question in proposal.questions:
        found = selection.candidates(question, world.fleet, world.config)
        options = tuple(each.candidate for each in found)
        place = selection.as_hinted(question, options, world.fleet)
        if question.hint is None or len(place) != 1:
            return
        held = held_to_share(question, place[0], world.fleet, world.config)
        action = Action.SCALE if held.hardware == question.current[0].hardware else Action.MOVE
        choice = Choice(action, f"{why}: {held.detail}", held)
        world.carry_out(question, choice, options, list(found))
