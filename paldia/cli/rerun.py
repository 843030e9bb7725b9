"""Runs a recorded step again on this machine, and compares what comes out with what was kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from paldia import __version__
from paldia.api import recording
from paldia.api.decisions import decision_to_proto
from paldia.client import Record, RecordedStep, decode
from paldia.core.engine import Step
from paldia.core.observation import Decision

DIFFERENCES_LIMIT = 100
"""Most differences that are told; all are counted."""
_ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that came out otherwise."""

    field: str
    stored: str
    rerun: str


@dataclass(frozen=True, slots=True)
class Rerun:
    """What running a step again came to.

    `same` is the verdict over `compared` fields, of which `different` are not equal;
    `differences` are the first of them. `recorded_by` and `rerun_by` name the versions and
    their rules.
    """

    same: bool
    compared: int
    different: int
    differences: tuple[Difference, ...]
    recorded_by: str
    rerun_by: str


def rerun(record: Record) -> Rerun:
    """Run the step of a record again, and compare plans, memories, decisions and the record.

    Raises:
        NotServableError: the step wasn't kept, or another version recorded it.
        InvalidArgumentError: what is stored of it is damaged.
    """
    step = record.step or RecordedStep("", "", "", b"", "it was not asked for")
    made = recording.unpacked(step)
    outcome = made.run_again()
    compared, found = 0, []
    for field, stored, again in _both(record, made.outcome, outcome):
        compared += 1
        if not _same(stored, again):
            found.append(Difference(field, str(stored), str(again)))
    return Rerun(
        same=not found,
        compared=compared,
        different=len(found),
        differences=tuple(found[:DIFFERENCES_LIMIT]),
        recorded_by=_named(step.version, step.core_digest),
        rerun_by=_named(__version__, recording.core_digest()),
    )


def _same(stored: object, again: object) -> bool:
    """Whether two values are equal; what is no number is like any other that is none."""
    both_unknown = all(isinstance(it, float) and math.isnan(it) for it in (stored, again))
    return stored == again or both_unknown


def _named(version: str, core_digest: str) -> str:
    return f"paldia {version} (core {recording.short(core_digest)})"


def _both(record: Record, stored: Step, again: Step) -> Iterator[tuple[str, object, object]]:
    """Give every field of a step and of the record, as it was stored and as it came out."""
    yield from _fields("plan", stored.plan, again.plan)
    # By model, so that one too many doesn't shift the rest.
    yield from _fields("decisions", _by_model(stored), _by_model(again))
    yield from _fields("memory", stored.memory, again.memory)
    yield from _fields("alarm", stored.alarm, again.alarm)
    yield from _fields("record", record.decision, _record_of(again, record.decision.model))


def _by_model(step: Step) -> dict[str, Decision]:
    return {decision.model: decision for decision in step.decisions}


def _record_of(step: Step, model: str) -> object:
    """Give the record that would be written of a model's decision."""
    decision = _by_model(step).get(model)
    if decision is None:
        return _ABSENT
    return decode.decision(decision_to_proto(decision, step.memory[model]))


def _fields(path: str, stored: object, again: object) -> Iterator[tuple[str, object, object]]:
    """Give whatever has no parts on one of the sides, with where it is."""
    parts, others = _parts(stored), _parts(again)
    if parts is None or others is None:
        yield path, stored, again
        return
    for name in parts | others:
        yield from _fields(path + name, parts.get(name, _ABSENT), others.get(name, _ABSENT))


def _parts(value: object) -> dict[str, object] | None:
    """Give the parts of a value by the text that leads to each; None if it has none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f".{each.name}": getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {f"[{name}]": item for name, item in value.items()}
    if isinstance(value, tuple):
        return {f"[{index}]": item for index, item in enumerate(value)}
    return None
