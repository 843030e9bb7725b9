"""What the planner carries from step to step: demand, failures, and when things began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    DeploymentState,
    ModelMemory,
    ModelView,
    NodeView,
    Observation,
    state_of,
)
from paldia.core.step import scaling

TRIALS_LIMIT = 10
"""Start limits for which a place is waited for at most, where others were given up before it."""


def remember(
    view: ModelView,
    memory: ModelMemory | None,
    observation: Observation,
    nodes: Mapping[str, NodeView],
    *,
    activation_s: float,
    config: PolicyConfig,
) -> ModelMemory:
    """Carry the new arrivals and failures over into what is known of a model.

    `activation_s` is the longest that any of the nodes takes to be had.
    """
    now_s = observation.now_s
    memory = _not_from_the_future(memory or ModelMemory(last_used_s=now_s), now_s, config)
    plan = observation.plan.get(view.model.name)
    states = {
        assignment: state_of(nodes.get(assignment.node_id), view.model.name, assignment)
        for assignment in (plan.target if plan else ())
    }
    waiting = any(state is not DeploymentState.READY for state in states.values())
    unready_since_s = (memory.unready_since_s or now_s) if waiting else None
    failed = []
    for assignment, state in states.items():
        profile = view.profiles.get(assignment.hardware)
        node = nodes.get(assignment.node_id)
        patience_s = config.start_limit_s + (profile.load_s if profile else 0.0)
        patience_s += node.hardware.activation_s if node else 0.0
        waited_s = unready_since_s or now_s
        moved_s = plan.since_s if plan and plan.since_s <= now_s else waited_s
        since_s = max(moved_s, waited_s)
        # Whoever goes from place to place gets as long at each as all before it took together:
        # what loads slowly is ready in the end.
        tried_s = moved_s - waited_s
        patience_s = max(patience_s, min(tried_s, TRIALS_LIMIT * config.start_limit_s))
        late = state is not DeploymentState.READY and now_s - since_s > patience_s
        if state is DeploymentState.FAILED or late:
            failed.append(assignment.node_id)
    avoid = dict(memory.avoid) | dict.fromkeys(failed, now_s + config.avoid_s)
    memory = taught(memory, view.demand.arrivals, view.demand.interval_s, now_s, config)
    # What piles up while a place is starting says nothing of its merits.
    piling = view.demand.backlog and not waiting
    backlog_since_s = (memory.backlog_since_s or now_s) if piling else None
    lasting = backlog_since_s is not None and now_s - backlog_since_s >= config.backlog_limit_s
    horizon_s = _horizon_s(view, activation_s)
    return replace(
        memory,
        expected_rate=_expected_rate(view, memory, horizon_s, now_s, config),
        backlog=view.demand.backlog if lasting else 0,
        backlog_since_s=backlog_since_s,
        last_used_s=scaling.last_used_s(view, memory, now_s, horizon_s),
        avoid=tuple(sorted((node, until) for node, until in avoid.items() if until > now_s)),
        unready_since_s=unready_since_s,
    )


def taught(
    memory: ModelMemory, arrivals: float, interval_s: float, now_s: float, config: PolicyConfig
) -> ModelMemory:
    """Give the memory that has also seen `arrivals` requests over `interval_s` seconds."""
    if interval_s <= 0:
        return memory
    rate = memory.rate.after(arrivals, interval_s, config)
    recurrence = memory.recurrence.after(rate.requests_per_second, now_s)
    return replace(memory, rate=rate, recurrence=recurrence)


def _horizon_s(view: ModelView, activation_s: float) -> float:
    """How long it takes until hardware that isn't there serves the model."""
    loads_s = [profile.load_s for profile in view.profiles.values() if profile is not None]
    return max(1.0, activation_s + max(loads_s, default=0.0))


def _expected_rate(
    view: ModelView, memory: ModelMemory, horizon_s: float, now_s: float, config: PolicyConfig
) -> float:
    """How much hardware has to be held for: nothing more can be had any sooner."""
    if view.demand.future_requests_per_second is not None:
        return view.demand.future_requests_per_second
    return max(
        memory.rate.requests_per_second,
        memory.rate.peak(horizon_s, config.peak_quantile),
        memory.recurrence.expected(now_s, now_s + horizon_s),
    )


def _not_from_the_future(memory: ModelMemory, now_s: float, config: PolicyConfig) -> ModelMemory:
    """Bound remembered times by the present, in case the clock was set back."""

    def bounded(time_s: float | None) -> float | None:
        return None if time_s is None else min(time_s, now_s)

    return replace(
        memory,
        last_used_s=min(memory.last_used_s, now_s),
        judged_s=min(memory.judged_s, now_s),
        saving_since_s=bounded(memory.saving_since_s),
        backlog_since_s=bounded(memory.backlog_since_s),
        unready_since_s=bounded(memory.unready_since_s),
        avoid=tuple((node, min(until, now_s + config.avoid_s)) for node, until in memory.avoid),
    )
