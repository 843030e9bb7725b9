"""From a step's plan to the writes that make it true: only what changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from paldia.api.decisions import decision_to_proto
from paldia.core.engine import Step
from paldia.core.observation import Action, Decision, ModelMemory, Plan
from paldia.store.base import COMMIT_LIMIT_BYTES, COMMIT_LIMIT_WRITES, Delete, Expect, Put
from paldia_controller.encoding import memory_to_proto, plan_to_proto
from paldia_controller.records import RECORD_WRITES
from paldia_controller.state import DECISIONS_KEPT, State, decision_key, decisions_of

# Room for the bill, which is written in the same commit.
PLANNER_BYTES = 768 << 10
WRITES_LIMIT = COMMIT_LIMIT_WRITES - RECORD_WRITES - 1
"""Most writes that plans may take: one is the planner's, and the others record the step."""


@dataclass
class Changes:
    """The part of a step that fits one commit.

    A model's writes belong together, and hold under conditions. Models that no longer fit
    wait for the next step.
    """

    writes: list[Put | Delete] = field(default_factory=list)
    expect: list[Expect] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    size_bytes: int = 0

    def add(self, model: str, writes: Sequence[Put | Delete], expect: Sequence[Expect]) -> bool:
        """Take a model's writes in, if there is room; say whether there was."""
        size_bytes = sum(len(write.value) for write in writes if isinstance(write, Put))
        fits = (
            len(self.writes) + len(writes) <= WRITES_LIMIT
            and len(self.expect) + len(expect) <= COMMIT_LIMIT_WRITES
            and self.size_bytes + size_bytes <= COMMIT_LIMIT_BYTES - PLANNER_BYTES
        )
        if fits:
            self.writes += writes
            self.expect += expect
            self.models.add(model)
            self.size_bytes += size_bytes
        return fits


def plan_changes(state: State, before: Plan, step: Step) -> Changes:
    """Give the writes of a step and the conditions under which they hold."""
    changes = Changes()
    for name in sorted(before.keys() - step.plan.keys()):
        forgotten = [
            table.delete(key)
            for table in (state.decisions, state.reviews)
            for key in decisions_of(table, name)
        ]
        gone = [state.plans.delete(name), state.memories.delete(name), *forgotten]
        if not changes.add(name, gone, [state.plans.unchanged(name)]):
            return changes
    for decision in step.decisions:
        plan = step.plan[decision.model]
        if plan != before.get(plan.model):
            memory = step.memory[plan.model]
            writes = [
                state.plans.put(plan.model, plan_to_proto(plan)),
                state.memories.put(plan.model, memory_to_proto(plan.model, memory)),
                *_record(state, decision, memory),
            ]
            # A model that was changed or removed meanwhile must be decided on anew.
            unchanged = [state.plans.unchanged(plan.model), state.models.unchanged(plan.model)]
            if not changes.add(plan.model, writes, unchanged):
                break
    return changes


def _record(state: State, decision: Decision, memory: ModelMemory) -> Iterable[Put | Delete]:
    """Keep a decision that isn't to stay, and no more of them than the limit."""
    if decision.action is Action.KEEP:
        return
    key = decision_key(decision.model, round(decision.decided_s * 1e3))
    yield state.decisions.put(key, decision_to_proto(decision, memory))
    kept = [known for known in decisions_of(state.decisions, decision.model) if known != key]
    for oldest in kept[: max(0, len(kept) + 1 - DECISIONS_KEPT)]:
        yield state.decisions.delete(oldest)
