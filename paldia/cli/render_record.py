"""A record that was in force, and what running its step again came to, as lines and tables."""

from __future__ import annotations

from datetime import datetime

from rich.console import RenderableType

from paldia.cli import render
from paldia.cli.output import moment, table
from paldia.cli.rerun import Rerun
from paldia.client import Decision, Record

_WIDEST = 60
"""Characters of a value that are shown of a difference."""


def record(found: Record, at: datetime) -> list[RenderableType]:
    """Give the decision that was in force at a moment, with all its candidates."""
    made = found.decision
    return [
        f"{made.model}, in force at {moment(at)}: decided {moment(made.decided_at)} "
        f"for generation {made.generation}: {_done(made, unchanged=found.unchanged)}",
        "",
        *render.decision(made, "then"),
    ]


def _done(made: Decision, *, unchanged: bool) -> str:
    here, there = (
        ", ".join(nodes) or "nowhere" for nodes in (made.from_node_ids, made.to_node_ids)
    )
    if unchanged:
        return f"{made.action}, and it stayed on {there}" if made.to_node_ids else made.action
    return f"{made.action}, from {here} to {there}"


def rerun(came: Rerun) -> list[RenderableType]:
    """Give the verdict, and what differs."""
    by = f"Run again with {came.rerun_by}"
    if came.recorded_by != came.rerun_by:
        by += f", recorded by {came.recorded_by}, so the rules may have changed"
    if came.same:
        return [f"{by}: same answer in all {came.compared} fields"]
    rows = [(each.field, _short(each.stored), _short(each.rerun)) for each in came.differences]
    more = came.different - len(rows)
    return [
        f"{by}: {came.different} of {came.compared} fields differ",
        table(("FIELD", "STORED", "RUN AGAIN"), rows),
        *([f"and {more} more"] if more else []),
    ]


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
