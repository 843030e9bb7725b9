"""The demo's load: real arrivals, from half to one and a half of what the slow node can do.

So the cheap node is enough at first and not at the end, on any machine: the rate is taken
from the throughput measured here, not from a figure that fitted somewhere else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from paldia.cli.progress import Update
from paldia.client import Decision, Profile
from paldia.core.errors import NotServableError
from paldia.load.outcomes import ANSWERED, Outcome
from paldia.load.report import Report
from paldia.load.warp import RateProfile, Seconds, warp

FIRST_SHARE = 0.5
LAST_SHARE = 1.5


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a kind of hardware can do of a model, by its profile, in requests per second."""

    hardware: str
    requests_per_second: float


def requests_per_second(profile: Profile) -> float:
    """Give what a kind of hardware can do of a model at its best batch size."""
    return max(point.batch_size / point.latency_s for point in profile.points)


def least_capacity(profiles: Sequence[Profile]) -> Capacity:
    """Give the slowest of the kinds that were measured, each at its best batch size.

    Raises:
        NotServableError: none was measured.
    """
    capacities = [
        Capacity(profile.hardware, requests_per_second(profile))
        for profile in profiles
        if profile.points
    ]
    if not capacities:
        raise NotServableError("the model was measured on no hardware, so there is no rate to try")
    return min(capacities, key=lambda capacity: capacity.requests_per_second)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """When to send, and the rates that it follows in requests per second."""

    offsets_s: Seconds
    first_rps: float
    last_rps: float


def plan_load(arrivals_s: Seconds, capacity: Capacity, duration_s: float) -> LoadPlan:
    """Bend the trace to a ramp around a capacity; lower it where the trace is too short."""
    wanted = capacity.requests_per_second * duration_s * (FIRST_SHARE + LAST_SHARE) / 2
    unit_rps = capacity.requests_per_second * min(1.0, (len(arrivals_s) - 1) / wanted)
    first_rps, last_rps = FIRST_SHARE * unit_rps, LAST_SHARE * unit_rps
    offsets_s = warp(arrivals_s, RateProfile.ramp(duration_s, first_rps, last_rps))
    return LoadPlan(offsets_s, first_rps, last_rps)


AnsweredBy: TypeAlias = Mapping[int, Mapping[str, int]]


def answered_by(outcomes: Iterable[Outcome]) -> AnsweredBy:
    """Count the answers of each second by the node that they say they came from."""
    seconds: dict[int, Counter[str]] = {}
    for outcome in outcomes:
        node = outcome.tags.get("paldia_node")
        if node is not None:
            seconds.setdefault(math.floor(outcome.intended_s), Counter())[str(node)] += 1
    return seconds


class Watcher:
    """Keeps a progress display up to date while a replay runs."""

    _EVERY_S = 0.5
    _STAGE_S = 5

    def __init__(self, slo_s: float, duration_s: float, update: Update) -> None:
        self._slo_s = slo_s
        self._duration_s = duration_s
        self._update = update
        self._known = 0
        self._in_slo = 0
        self._shown_s = 0.0

    def see(self, outcome: Outcome) -> None:
        """Count one outcome, and show the count now and then."""
        self._known += 1
        self._in_slo += outcome.code == ANSWERED and outcome.latency_s <= self._slo_s
        if outcome.done_s - self._shown_s >= self._EVERY_S:
            self._shown_s = outcome.done_s
            node = outcome.tags.get("paldia_node", "no node")
            self._update(
                f"{int(outcome.done_s) // self._STAGE_S * self._STAGE_S} s",
                f"{self._known} requests, {self._in_slo / self._known:.1%} within "
                f"{self._slo_s * 1e3:.0f} ms, the latest from {node}",
                min(1.0, outcome.done_s / self._duration_s),
            )


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a replay went, and the moves of its model meanwhile, the first first.

    `answered_by` counts for each second the answers by the node they came from.
    """

    report: Report
    answered_by: AnsweredBy
    batches: int
    plan: LoadPlan
    moves: tuple[Decision, ...]


def moves_since(moment: datetime, decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """Pick the moves later than a moment, given all decisions newest first; the first first."""
    return tuple(
        decision
        for decision in reversed(decisions)
        if decision.action == "move" and decision.decided_at and decision.decided_at > moment
    )


def batches_of(outcomes: Sequence[Outcome]) -> int:
    """Count the calls that the answers came from, by the batch size each answer tells."""
    return round(sum(1 / int(o.tags["paldia_batch"]) for o in outcomes if "paldia_batch" in o.tags))
