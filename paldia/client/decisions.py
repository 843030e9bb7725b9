"""What the controller answers about its decisions, as plain immutable values; see `results`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paldia.client.results import Model, Profile


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was judged of one kind of hardware; `verdict` names the binding constraint."""

    hardware: str
    node_ids: tuple[str, ...]
    batch_size: int
    lanes: int
    predicted_latency_s: float | None
    throughput_per_second: float
    price_usd_per_hour: float
    added_usd_per_hour: float
    utilisation: float
    verdict: str
    detail: str
    sm_percent: int = 100


@dataclass(frozen=True, slots=True)
class Demand:
    """Demand that a decision was made for; a dispersion of 1 is Poisson.

    Hardware is held for `held_requests_per_second`, `held_for` one of `rate`, as many come now;
    `peak`, as many may come before other hardware could be there; and `recurrence`, as many came
    at the same minute of the hours before. It is unknown (None, empty) of older records.
    """

    requests_per_second: float
    dispersion: float
    backlog: int
    held_requests_per_second: float | None = None
    held_for: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about a model; `chosen` is an index into `candidates`, or None."""

    model: str
    generation: int
    decided_at: datetime | None
    action: str
    reason: str
    slo_unreachable: bool
    demand: Demand
    candidates: tuple[Candidate, ...]
    chosen: int | None
    from_node_ids: tuple[str, ...]
    to_node_ids: tuple[str, ...]
    inputs_digest: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A model's decisions, newest first, and the profiles they rest on.

    `current` is what the planner thinks now, whether or not it changes anything.
    """

    model: Model
    current: Decision | None
    decisions: tuple[Decision, ...]
    profiles: tuple[Profile, ...]


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """All that a step of the planner was made from and gave, to be run again.

    `version` is of the program that recorded it, the digests are of its rules and of the form
    of `content`; `not_kept` says why there is none.
    """

    version: str
    core_digest: str
    form_digest: str
    content: bytes
    not_kept: str


@dataclass(frozen=True, slots=True)
class Record:
    """A decision that was in force at some time.

    `unchanged` tells that it left the model where it was: such records are written now and then.
    `step` is there if it was asked for.
    """

    decision: Decision
    unchanged: bool
    step: RecordedStep | None = None
