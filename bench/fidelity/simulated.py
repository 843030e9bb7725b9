"""A case in the simulator: the machines as they reported themselves, the profiles as measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.fidelity.cases import LEAD_S, Case
from bench.fidelity.played import Played
from paldia.core.baselines import policy_named
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, Slo
from paldia.sim.runner import run
from paldia.sim.scenario import Fate, Scenario, SimModel, Times

DIGEST = "f" * 64
"""Stands for an artifact that is never loaded."""


@dataclass(frozen=True, slots=True)
class Known:
    """Arrivals that are known one by one."""

    times: Times
    duration_s: float

    def chunks(self) -> Iterator[Times]:
        """Give them, all at once."""
        if len(self.times):
            yield self.times


@dataclass(frozen=True, slots=True)
class Ways:
    """What a request takes beyond its batch while nobody else is there; the simulator has none.

    Attributes:
        lane_s: from frontend to Triton and back, while the lane is busy.
        caller_s: from the caller to the frontend and back.
    """

    lane_s: float
    caller_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """What the live cluster is known by before a case is played on it.

    Attributes:
        profiles: as measured, by kind of hardware.
        nodes: the machines as they reported themselves.
        silence_s: since the model was deployed, until the lead.
    """

    profiles: Mapping[str, Profile]
    nodes: Mapping[str, Hardware]
    silence_s: float
    ways: Ways


class _Answers:
    """Is told what became of each request that came after the lead."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.node_ids: list[str] = []

    def __call__(
        self,
        model: str,
        fate: Fate,
        arrivals_s: Sequence[float] | Times,
        done_s: float,
        *,
        node_id: str = "",
        **_: object,
    ) -> None:
        answered = fate is Fate.ANSWERED
        for arrival_s in arrivals_s:
            if arrival_s >= LEAD_S:
                self.seconds.append(done_s - arrival_s if answered else np.nan)
                self.node_ids.append(node_id if answered else "")


def simulate(case: Case, times: Times, played_s: float, found: Found) -> Played:
    """Play the same requests, after as long a silence.

    Args:
        case: the case.
        times: when requests come, in seconds from the lead's start.
        played_s: the time after the lead that is compared.
        found: the cluster to simulate.
    """
    duration_s = LEAD_S + played_s
    model = Model(case.model, DIGEST, Slo(case.slo_s))
    profiles = {
        kind: replace(
            profile,
            points=tuple((rows, took_s + found.ways.lane_s) for rows, took_s in profile.points),
        )
        for kind, profile in found.profiles.items()
    }
    silence = Known(np.zeros(0), found.silence_s)
    spec = SimModel(model, profiles, Known(times, duration_s), history=silence)
    answers = _Answers()
    # No longer than the live planner has this one seen silence, and learned from it.
    scenario = Scenario((spec,), found.nodes, duration_s, warmup_s=found.silence_s)
    timeline = run(scenario, policy_named(case.policy), sink=answers).timeline
    from_row = round(LEAD_S / timeline.interval_s)
    cost_usd = float(timeline.usd_per_hour[from_row:].sum()) * timeline.interval_s / 3600
    return Played(np.array(answers.seconds) + found.ways.caller_s, answers.node_ids, cost_usd)
