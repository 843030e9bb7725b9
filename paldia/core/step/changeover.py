"""Make before break: what serves goes on until all of the new target is ready."""

from __future__ import annotations

from collections.abc import Mapping

from paldia.core.observation import (
    Action,
    Assignment,
    DeploymentState,
    ModelPlan,
    ModelView,
    NodeView,
    state_of,
)
from paldia.core.placement.choice import Choice
from paldia.core.types import NodeState


def changed_over(
    view: ModelView,
    before: ModelPlan,
    choice: Choice,
    nodes: Mapping[str, NodeView],
    now_s: float,
    *,
    slo_unreachable: bool,
) -> ModelPlan:
    """Give the plan that carries a choice out."""

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
        since_s=now_s if moved else before.since_s,
    )
