"""What came out, as figures: one cell a policy, and the settings they hold for.

Milliseconds and dollars appear here, at the user's edge. Latencies are those of answers, so read
them together with compliance, which counts every request that was offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from paldia.sim.outcome import ModelOutcome, Outcome


@dataclass(frozen=True, slots=True)
class Settings:
    """What all policies of a report were run with.

    Attributes:
        load: the trace's peak, in requests per second of simulated time.
        hardware_set: what the machines are called together.
        nodes: how many there are of each kind.
        prices_usd_per_hour: of each kind.
        speed: seconds of the trace that went by in a simulated one.
        factor: requests for each recorded one.
        duration_s: simulated seconds.
    """

    workload: str
    trace: str
    load: float
    hardware_set: str
    nodes: Mapping[str, int]
    prices_usd_per_hour: Mapping[str, float]
    slo_s: float
    seed: int
    speed: float
    factor: float
    duration_s: float


def together(outcome: Outcome) -> ModelOutcome:
    """Add up a run's models: sums of counts, means over answers.

    A tail's parts are the mean over each model's own slowest 1 %, weighted by answers.
    """
    models = outcome.models
    if len(models) == 1:
        return models[0]
    answered = sum(model.answered for model in models)

    def mean(part: str) -> float:
        total = sum(getattr(model, part) * model.answered for model in models)
        return float(total / answered) if answered else 0.0

    return ModelOutcome(
        name=", ".join(model.name for model in models),
        requests=sum(model.requests for model in models),
        answered=answered,
        in_slo=sum(model.in_slo for model in models),
        refused=sum(model.refused for model in models),
        failed=sum(model.failed for model in models),
        latency_edges_s=models[0].latency_edges_s,
        latency_counts=np.sum([model.latency_counts for model in models], axis=0),
        queue_s=mean("queue_s"),
        interference_s=mean("interference_s"),
        execution_s=mean("execution_s"),
        cold_s=mean("cold_s"),
        tail_queue_s=mean("tail_queue_s"),
        tail_interference_s=mean("tail_interference_s"),
        tail_execution_s=mean("tail_execution_s"),
        tail_cold_s=mean("tail_cold_s"),
    )


def cell(
    outcome: Outcome, *, workload: str, trace: str, load: float, hardware_set: str
) -> dict[str, Any]:
    """Give one policy's figures.

    `queue_ms` to `cold_ms` are what the slowest 1 % of answers spent their time with.
    """
    every = together(outcome)
    return {
        "workload": workload,
        "trace": trace,
        "load": load,
        "hardware_set": hardware_set,
        "policy": outcome.policy,
        **_figures(every),
        "cost_usd": outcome.cost_usd,
        "node_hours": outcome.node_hours,
        "switches": outcome.switches,
        "answered": every.answered,
        "refused": every.refused,
        "failed": every.failed,
        "energy_joules": outcome.energy_joules,
        "cpu_s": outcome.cpu_s,
    }


def _figures(model: ModelOutcome) -> dict[str, float]:
    return {
        "requests": model.requests,
        "slo_compliance": model.slo_compliance,
        "p50_ms": model.latency_s(0.5) * 1e3,
        "p99_ms": model.latency_s(0.99) * 1e3,
        "queue_ms": model.tail_queue_s * 1e3,
        "interference_ms": model.tail_interference_s * 1e3,
        "execution_ms": model.tail_execution_s * 1e3,
        "cold_ms": model.tail_cold_s * 1e3,
    }


def bill(
    outcome: Outcome, prices_usd_per_hour: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Give node-hours and dollars by kind of hardware, kinds that were never in use left out."""
    timeline = outcome.timeline
    ends_s = np.arange(1, len(timeline.offered) + 1) * timeline.interval_s
    hours = np.diff(np.minimum(ends_s, outcome.duration_s), prepend=0.0) / 3600
    spent = {kind: float(nodes @ hours) for kind, nodes in timeline.nodes.items()}
    return {
        kind: (node_hours, node_hours * prices_usd_per_hour[kind])
        for kind, node_hours in spent.items()
        if node_hours > 0
    }


def report(
    settings: Settings, outcomes: Sequence[Outcome], unfinished: Sequence[str] = ()
) -> dict[str, Any]:
    """Give report.json: settings, and a cell for each policy with its models and its bill.

    Args:
        unfinished: policies that were to be run and weren't.
    """
    labels: dict[str, Any] = {
        "workload": settings.workload,
        "trace": settings.trace,
        "load": settings.load,
        "hardware_set": settings.hardware_set,
    }
    cells = []
    for outcome in outcomes:
        spent = bill(outcome, settings.prices_usd_per_hour)
        cells.append(
            {
                **cell(outcome, **labels),
                "models": [{"name": it.name, **_figures(it)} for it in outcome.models],
                "bill": {
                    kind: {"node_hours": hours, "cost_usd": usd}
                    for kind, (hours, usd) in spent.items()
                },
            }
        )
    return {"settings": asdict(settings), "cells": cells, "unfinished": list(unfinished)}
