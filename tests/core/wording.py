"""What a transcript says: of each tick only what is new, in lines that a person can check."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from paldia.core.engine import Step
from paldia.core.observation import (
    Assignment,
    Candidate,
    Decision,
    ModelPlan,
    NodeView,
    Observation,
)
from paldia.core.types import NodeState


@dataclass
class Told:
    """What was said last, of each node, of each model, and of the fleet as a whole."""

    nodes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    alarm: str = ""

    def news(self, observation: Observation, step: Step) -> Iterator[str]:
        """Give a line for each thing that has changed: first what was seen, then what follows."""
        seen = {node.node_id: _node(node) for node in observation.nodes}
        yield from _together(
            {name: said for name, said in seen.items() if said != self.nodes.get(name, "parked")}
        )
        self.nodes = seen
        if bool(step.alarm) != bool(self.alarm):
            yield f"ALARM: {step.alarm}" if step.alarm else "the alarm is over"
        self.alarm = step.alarm
        decisions = {decision.model: decision for decision in step.decisions}
        for name in sorted({*observation.plan, *step.plan}):
            before = observation.plan.get(name) or ModelPlan(name, 1)
            after = step.plan.get(name) or ModelPlan(name, 1)
            yield from self._model(before, after, decisions.get(name))

    def _model(
        self, before: ModelPlan, after: ModelPlan, decision: Decision | None
    ) -> Iterator[str]:
        name, verb = after.model, decision.action.value if decision else "passed over"
        lines = list(_changes(before, after))
        if decision is not None:
            # A reason to leave all as it is is no news if only its numbers differ.
            gist = re.sub(r"[\d.]+", "#", decision.reason)
            if before.target != after.target or gist not in self.reasons.get(name, ""):
                lines = [*decision.reason.split("; "), *lines]
            self.reasons[name] = gist
        if lines or before.target != after.target:
            here = _places(after.target)
            moves = before.target != after.target
            yield f"{name} {verb}: {f'{_nodes(before.target)} -> ' if moves else ''}{here}"
            yield from (f"    {line}" for line in lines)


def _together(said: Mapping[str, str]) -> Iterator[str]:
    """Name those in one line of whom the same is said."""
    for what in dict.fromkeys(said.values()):
        yield f"{' '.join(name for name, each in said.items() if each == what)}: {what}"


def _changes(before: ModelPlan, after: ModelPlan) -> Iterator[str]:
    """Say what changes that isn't the target."""
    left = [spot for spot in before.retiring if spot not in after.assignments]
    if before.retiring != after.retiring and after.retiring:
        yield f"serves from {_nodes(after.retiring)} until that is ready"
    if left:
        yield f"serves no more from {_nodes(left)}"
    if before.slo_unreachable != after.slo_unreachable:
        yield f"can {'NOT' if after.slo_unreachable else 'now'} keep its SLO"


def explained(decision: Decision, held_for: float) -> Iterator[str]:
    """Lay out a decision: what was known, each candidate, and what came of it."""
    yield (
        f"{decision.model}: {decision.rate.requests_per_second:.1f} requests/s, "
        f"{held_for:.1f} held for, {decision.backlog} waiting: {decision.action.value} "
        f"{_places(decision.after)}"
    )
    rows = [_HEADINGS, *(_row(each, decision.chosen) for each in decision.candidates)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def fleet(nodes: Sequence[NodeView], plans: Mapping[str, ModelPlan]) -> Iterator[str]:
    """Say of each node what state it is in and what is planned on it."""
    for node in nodes:
        spots = [
            f"{plan.model} ({_way(spot)})"
            for plan in plans.values()
            for spot in plan.assignments
            if spot.node_id == node.node_id
        ]
        held = ", ".join(spots) or "nothing"
        yield f"{node.node_id} ({node.hardware.name}) {node.state.value}: {held}"


_HEADINGS = ("", "hardware", "nodes", "way", "T", "X", "price", "adds", "verdict", "why")


def _row(option: Candidate, chosen: Candidate | None) -> tuple[str, ...]:
    mark = "*" if chosen is not None and option.hardware == chosen.hardware else ""
    if not option.servable:
        gaps = ("-",) * 6
        return (mark, option.hardware, *gaps, option.verdict.value, option.detail)
    first = option.assignments[0]
    return (
        mark,
        option.hardware,
        _nodes(option.assignments),
        f"{first.batch} x {first.lanes}",
        f"{option.latency_s * 1e3:.0f} ms",
        f"{option.throughput:.1f}/s",
        f"${option.price_usd_per_hour:g}",
        f"${option.added_usd_per_hour:g}",
        option.verdict.value,
        option.detail,
    )


def _node(node: NodeView) -> str:
    if node.state is NodeState.LOST:
        return "lost"
    held = [f"{name} {view.state.value}" for (name, _), view in node.deployments.items()]
    return ", ".join([node.state.value, *held])


def _places(assignments: Sequence[Assignment]) -> str:
    return ", ".join(f"{spot.node_id} ({_way(spot)})" for spot in assignments) or "nowhere"


def _nodes(assignments: Sequence[Assignment]) -> str:
    return " ".join(spot.node_id for spot in assignments) or "nowhere"


def _way(spot: Assignment) -> str:
    held = f", {spot.sm_percent} % of SMs" if spot.sm_percent < 100 else ""
    return f"batch {spot.batch} x {spot.lanes}{held}"
