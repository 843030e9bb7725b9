"""Whom a step decides on, in which order, and with what is judged beforehand."""

from __future__ import annotations

from dataclasses import replace

from paldia.core.placement.occupancy import demand_of
from paldia.core.placement.questions import Question
from paldia.core.placement.standing import standing
from paldia.core.placement.together import packed
from paldia.core.step.prospects import least_work_s
from paldia.core.step.stability import is_settled
from paldia.core.step.world import World


def questions(world: World) -> list[Question]:
    """Give what is to be decided, with all that can be judged beforehand.

    Those that have a place go first, by name; then those without, the greatest first, for
    the small ones fill what the great ones leave. Whoever could stay may leave for money
    only, and for a place that keeps its SLO by more. If there is nothing to decide, the fleet
    stays as it is without those who are on it.
    """
    settled = {name for rank, name in enumerate(world.plans) if _is_settled(world, name, rank)}
    if len(settled) == len(world.plans) and not _share_nodes(world):
        return []
    world.settle_in()
    names = [name for name in world.plans if name not in settled or _is_hurt(world, name)]
    placed = world.prospects.tuned(
        [world.question(name, 1) for name in names if world.plans[name].target]
    )
    homeless = sorted(
        (name for name in names if not world.plans[name].target),
        key=lambda name: (-_size_usd_per_hour(world, name), name),
    )
    left = range(len(homeless), 0, -1)
    unplaced = [world.question(name, waiting) for name, waiting in zip(homeless, left, strict=True)]
    strict, loose = world.config.saving_margin, world.config.margin
    asked = [(question, strict if _may_stay(world, question) else loose) for question in placed] + [
        (question, loose) for question in unplaced
    ]
    questions = _with_calm(world, world.prospects.judged(asked), [margin for _, margin in asked])
    if world.policy.moves:
        newcomers = packed(questions[len(placed) :], world.fleet, world.config)
        questions[len(placed) :] = newcomers
    return questions


def _is_settled(world: World, name: str, rank: int) -> bool:
    plan = world.plans[name]
    return bool(plan.target) and is_settled(
        plan,
        world.views[name],
        world.memories[name],
        world.nodes,
        world.config,
        now_s=world.observation.now_s,
        rank=rank,
    )


def _share_nodes(world: World) -> bool:
    """Whether a node is planned to serve two models, so that one may have too much company."""
    places = [{a.node_id for a in plan.assignments} for plan in world.plans.values()]
    return len(set().union(*places)) < sum(map(len, places))


def _is_hurt(world: World, name: str) -> bool:
    return any(world.fleet.is_hurt(index, name) for index in world.fleet.places(name))


def _may_stay(world: World, question: Question) -> bool:
    found = standing(question, world.fleet, world.config)
    return found is not None and found.candidate.feasible


def _with_calm(world: World, questions: list[Question], margins: list[float]) -> list[Question]:
    """Judge those whose SLO is at stake also as if their backlog were worked off."""
    troubled = [
        at
        for at, (question, margin) in enumerate(zip(questions, margins, strict=True))
        if question.memory.backlog and margin == world.config.margin
    ]
    easier = world.prospects.judged(
        [(questions[at].without_backlog(), margins[at]) for at in troubled]
    )
    for at, calm in zip(troubled, easier, strict=True):
        questions[at] = replace(questions[at], calm=calm.kinds)
    return questions


def _size_usd_per_hour(world: World, name: str) -> float:
    """What a model's work costs at least: its share of a device, at the device's price."""
    view = world.views[name]
    rate = demand_of(view, world.memories[name], 1).requests_per_second
    costs = []
    for kind, profile in view.profiles.items():
        if profile is not None and kind in world.fleet.hardware:
            price = world.fleet.price_usd_per_hour[world.fleet.part(kind).start]
            costs.append(rate * least_work_s(profile, view.model.max_batch) * float(price))
    return min(costs, default=0.0)
