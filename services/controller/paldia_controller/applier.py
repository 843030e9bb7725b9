"""From a step's plan to the writes that make it true: only what changed."""

from __future__ import annotations

from collections.abc import Iterable

from paldia.api import convert
from paldia.api.v1 import state_pb2
from paldia.core.engine import Step
from paldia.core.observation import Action, Decision, ModelPlan, Plan
from paldia.store.base import COMMIT_LIMIT_WRITES, Delete, Expect, Put
from paldia_controller.state import DECISIONS_KEPT, State, decision_key

# The planner's own record takes one write of the same commit.
WRITES_A_STEP = COMMIT_LIMIT_WRITES - 1


def plan_writes(state: State, before: Plan, step: Step) -> tuple[list[Put | Delete], list[Expect]]:
    """Give the writes of a step and the conditions under which they hold.

    A model's writes belong together; models that no longer fit one commit wait for the
    next step, which comes to the same conclusions.
    """
    writes: list[Put | Delete] = []
    expect: list[Expect] = []
    for name in sorted(before.keys() - step.plan.keys()):
        forgotten = _decisions_of(state, name)
        if len(writes) + 1 + len(forgotten) > WRITES_A_STEP:
            break
        writes += [state.plans.delete(name), *map(state.decisions.delete, forgotten)]
        expect.append(state.plans.unchanged(name))
    for decision in step.decisions:
        plan = step.plan[decision.model]
        if plan == before.get(decision.model):
            continue
        mine = [
            state.plans.put(plan.model, plan_to_proto(plan)),
            *(_record(state, decision) if decision.action is not Action.KEEP else ()),
        ]
        if len(writes) + len(mine) > WRITES_A_STEP:
            break
        writes += mine
        # A model that was changed or removed meanwhile must be decided on anew.
        expect += [state.plans.unchanged(plan.model), state.models.unchanged(plan.model)]
    return writes, expect


def _record(state: State, decision: Decision) -> Iterable[Put | Delete]:
    """Keep a decision, and no more of them than the limit."""
    key = decision_key(decision.model, round(decision.decided_s * 1e3))
    yield state.decisions.put(key, convert.decision_to_proto(decision))
    kept = [known for known in _decisions_of(state, decision.model) if known != key]
    for oldest in kept[: max(0, len(kept) + 1 - DECISIONS_KEPT)]:
        yield state.decisions.delete(oldest)


def _decisions_of(state: State, model: str) -> list[str]:
    """List the keys of a model's decisions, oldest first."""
    return sorted(key for key in state.decisions.rows if key.startswith(f"{model}/"))


def plan_to_proto(plan: ModelPlan) -> state_pb2.StoredPlan:
    """Encode a plan."""
    return state_pb2.StoredPlan(
        model=plan.model,
        generation=plan.generation,
        target=[convert.assignment_to_proto(assignment) for assignment in plan.target],
        retiring=[convert.assignment_to_proto(assignment) for assignment in plan.retiring],
        slo_unreachable=plan.slo_unreachable,
        since=convert.timestamp(plan.since_s),
    )
