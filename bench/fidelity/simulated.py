"""A case in the simulator: the machines as they reported themselves, the profiles as measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
class Found:
    """What the live cluster is known by before a case is played on it.

    Attributes:
        profiles: as measured, by kind of hardware.
        nodes: the machines as they reported themselves.
        before: requests since the model was deployed, until the lead: all that there ever were.
        overhead_s: what a request takes beyond its batch while nobody else is there: the way
            from the caller to the batch and back, of which the simulator knows nothing.
    """

    profiles: Mapping[str, Profile]
    nodes: Mapping[str, Hardware]
    before: Known
    overhead_s: float


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
    """Play the same requests, after the same that came before them.

    Args:
        case: the case.
        times: when requests come, in seconds from the lead's start.
        played_s: the time after the lead that is compared.
        found: the cluster to simulate.
    """
    duration_s = LEAD_S + played_s
    model = Model(case.model, DIGEST, Slo(case.slo_s))
    spec = SimModel(model, found.profiles, Known(times, duration_s), history=found.before)
    answers = _Answers()
    # No longer than the live cluster has the planner seen silence, and learned from it.
    warmup_s = found.before.duration_s
    scenario = Scenario((spec,), found.nodes, duration_s, warmup_s=warmup_s)
    timeline = run(scenario, policy_named(case.policy), sink=answers).timeline
    from_row = round(LEAD_S / timeline.interval_s)
    cost_usd = float(timeline.usd_per_hour[from_row:].sum()) * timeline.interval_s / 3600
    return Played(np.array(answers.seconds) + found.overhead_s, answers.node_ids, cost_usd)
