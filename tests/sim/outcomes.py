"""Outcomes made by hand, for the tests of reports and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from paldia.sim.measure import ModelMeter
from paldia.sim.outcome import ModelOutcome, Outcome, Timeline
from paldia.sim.report import Settings

SLO_S = 0.2
DURATION_S = 25.0
INTERVAL_S = 10.0
PRICES = {"big": 3.0, "small": 0.36, "unused": 9.0}
SETTINGS = Settings(
    workload="net",
    trace="calls",
    load=40.0,
    hardware_set="two",
    nodes={"big": 1, "small": 2, "unused": 1},
    prices_usd_per_hour=PRICES,
    slo_s=SLO_S,
    seed=7,
    speed=60.0,
    factor=0.5,
    duration_s=DURATION_S,
)


@dataclass(frozen=True)
class Batch:
    """Requests answered together."""

    arrivals_s: Sequence[float]
    start_s: float
    done_s: float
    work_s: float
    cold_s: float = 0.0


@dataclass
class Run:
    """What a policy's run consists of; machines are `big` for the first 10 s, then `small`."""

    policy: str = "paldia"
    batches: Sequence[Batch] = ()
    refused_s: Sequence[float] = ()
    names: Sequence[str] = ("net",)
    per_model: dict[str, Sequence[Batch]] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        """Give its figures; every model without batches of its own has the common ones."""
        meters = {name: ModelMeter(SLO_S, 3, INTERVAL_S) for name in self.names}
        for name, meter in meters.items():
            fill(meter, self.per_model.get(name, self.batches), self.refused_s)
        models = tuple(meter.outcome(name) for name, meter in meters.items())
        nodes = {
            "big": np.array([1.0, 0.0, 0.0]),
            "small": np.array([0.0, 2.0, 1.0]),
            "unused": np.zeros(3),
        }
        prices = sum(PRICES[kind] * number for kind, number in nodes.items())
        hours = np.array([10, 10, 5]) / 3600
        timeline = Timeline(
            interval_s=INTERVAL_S,
            offered=np.sum([meter.offered for meter in meters.values()], axis=0),
            in_slo=np.sum([meter.in_slo for meter in meters.values()], axis=0),
            nodes=nodes,
            usd_per_hour=np.asarray(prices),
        )
        return Outcome(
            policy=self.policy,
            duration_s=DURATION_S,
            models=models,
            timeline=timeline,
            cost_usd=float(prices @ hours),
            node_hours=float(sum(number @ hours for number in nodes.values())),
            switches=3,
            energy_joules=120.0,
            cpu_s=0.5,
        )


def fill(meter: ModelMeter, batches: Sequence[Batch], refused_s: Sequence[float] = ()) -> None:
    """Tell a meter of requests."""
    for batch in batches:
        meter.note_offered(np.array(batch.arrivals_s, float))
        cold_s = np.full(len(batch.arrivals_s), batch.cold_s) if batch.cold_s else None
        meter.note_batch(batch.arrivals_s, batch.start_s, batch.done_s, batch.work_s, cold_s)
    meter.note_offered(np.array(refused_s, float))
    meter.refused = len(refused_s)


def by_hand(batches: Sequence[Batch], refused_s: Sequence[float] = ()) -> ModelOutcome:
    """Give one model's figures."""
    meter = ModelMeter(SLO_S, 3, INTERVAL_S)
    fill(meter, batches, refused_s)
    return meter.outcome("net")
