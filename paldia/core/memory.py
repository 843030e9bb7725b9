"""What the planner carries from step to step: demand, failures, and when things began."""

from __future__ import annotations

from dataclasses import replace

from paldia.core import scaling
from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    Assignment,
    DeploymentState,
    ModelMemory,
    ModelView,
    NodeView,
    Observation,
)


def remember(
    view: ModelView, memory: ModelMemory | None, observation: Observation, config: PolicyConfig
) -> ModelMemory:
    """Carry the new arrivals and failures over into what is known of a model."""
    now_s = observation.now_s
    memory = _not_from_the_future(memory or ModelMemory(last_used_s=now_s), now_s, config)
    plan = observation.plan.get(view.model.name)
    nodes = {node.node_id: node for node in observation.nodes}
    states = {
        assignment: state_of(nodes.get(assignment.node_id), view.model.name, assignment)
        for assignment in (plan.target if plan else ())
    }
    waiting = any(state is not DeploymentState.READY for state in states.values())
    unready_since_s = (memory.unready_since_s or now_s) if waiting else None
    failed = []
    for assignment, state in states.items():
        profile = view.profiles.get(assignment.hardware)
        patience_s = config.start_limit_s + (profile.load_s if profile else 0.0)
        since_s = max(plan.since_s if plan else now_s, unready_since_s or now_s)
        late = state is not DeploymentState.READY and now_s - since_s > patience_s
        if state is DeploymentState.FAILED or late:
            failed.append(assignment.node_id)
    avoid = dict(memory.avoid) | dict.fromkeys(failed, now_s + config.avoid_s)
    return replace(
        memory,
        rate=memory.rate.after(view.demand.arrivals, view.demand.interval_s, config),
        last_used_s=scaling.last_used_s(view, memory, now_s),
        avoid=tuple(sorted((node, until) for node, until in avoid.items() if until > now_s)),
        unready_since_s=unready_since_s,
    )


def _not_from_the_future(memory: ModelMemory, now_s: float, config: PolicyConfig) -> ModelMemory:
    """Bound remembered times by the present, in case the clock was set back."""
    saving_s = memory.saving_since_s
    return replace(
        memory,
        last_used_s=min(memory.last_used_s, now_s),
        saving_since_s=None if saving_s is None else min(saving_s, now_s),
        avoid=tuple((node, min(until, now_s + config.avoid_s)) for node, until in memory.avoid),
    )


def state_of(node: NodeView | None, model: str, assignment: Assignment) -> DeploymentState | None:
    """What a node last said of an assignment; None if nothing."""
    view = node.deployments.get((model, assignment.artifact_digest)) if node else None
    return view.state if view else None
