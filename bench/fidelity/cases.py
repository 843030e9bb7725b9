"""What is played: a model, the machines it may be on, a policy, and when requests come.

Two cases run real models on a real CPU, with latencies measured there, so that not the same
device model stands on both sides; the others run emulated accelerators. Those are slowed, so that
what passing a request on takes is little beside its batch, and two cores suffice for it all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from bench.paper.scenarios import PEAK_AT_S, evaluation_trace
from paldia.cli.node_options import NodeOptions, emulated_node
from paldia.sim.scenario import Times

LEAD_S = 40.0
"""What is played before the time that is compared, for both planners to know the load."""
PLAYED_S = 300.0
MINUTE_S = 60.0
RPS_LIMIT = 120.0
"""More than so many requests a second would measure this machine's two cores, not the policy."""
SLOWED = 5.0
"""How many times as long everything takes on an emulated accelerator."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        model: the sample's folder.
        load: the slice's busiest minute, as a share of what one `reference` can do: so much that
            hardware and batches change, and so little that no queue grows without end, where a
            few per cent of capacity would decide everything.
    """

    name: str
    model: str
    trace: str
    policy: str
    nodes: tuple[NodeOptions, ...]
    reference: str
    load: float
    slo_s: float


def cases() -> tuple[Case, ...]:
    """Give all cases, those on a real CPU first, those of one model and its machines together."""
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    cpu = (NodeOptions("cpu", "cpu", 0.1, cores),)
    gpus = tuple(
        replace(emulated_node(name, kind), slowdown=SLOWED)
        for name, kind in (("v100", "p3.2xlarge"), ("t4", "g4dn.xlarge"))
    )
    code, bursty, wikipedia = "azure-llm-code", "azure-bursty", "wikipedia"
    t4 = "g4dn.xlarge"
    return (
        Case("magika-cpu", "magika", bursty, "paldia", cpu, "cpu", 0.25, 0.1),
        Case("minilm-cpu", "minilm", wikipedia, "paldia", cpu, "cpu", 0.25, 0.2),
        Case("bert-code", "bert", code, "paldia", gpus, t4, 0.5, 1.0),
        Case("bert-bursty", "bert", bursty, "paldia", gpus, t4, 0.6, 1.0),
        Case("bert-time", "bert", bursty, "molecule-cost", gpus, t4, 0.7, 1.0),
        Case("bert-space", "bert", bursty, "infless-llama-cost", gpus, t4, 0.6, 1.0),
    )


def arrivals(case: Case, capacity: float, played_s: float) -> Times:
    """Give when requests are sent, in seconds from the start of the lead.

    Args:
        case: the case.
        capacity: requests per second of one device of the case's reference.
        played_s: the time that is compared.
    """
    length_s = LEAD_S + played_s
    around = evaluation_trace(case.trace, full=False, seed=SEED)
    piece = around.part(PEAK_AT_S + MINUTE_S / 2 - length_s / 2, length_s)
    scaled = piece.scaled_to(min(RPS_LIMIT, case.load * capacity), min(MINUTE_S, length_s))
    chunks = [*scaled.chunks()]
    return np.concatenate(chunks) if chunks else np.zeros(0)
