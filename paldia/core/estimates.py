"""What a model would cost on hardware that it wasn't measured on, from hardware that it was.

The rule: latencies as on the other kind, times how much longer other models take here than
there. Where no other model tells, they are taken to be equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from paldia.core.profiles import Profile, Provenance
from paldia.core.types import Hardware

_LEAST_DEMAND = 0.01


def relative_latency(pairs: Iterable[tuple[Profile, Profile]]) -> float:
    """Give how many times longer batches take on one kind of hardware than on another.

    The median over models, and for each over the batch sizes measured on both; 1 without any.

    Args:
        pairs: profiles of the same model, on the one kind and on the other.
    """
    ratios = []
    for here, there in pairs:
        seen, known = dict(here.points), dict(there.points)
        shared = [seen[size] / known[size] for size in seen if size in known]
        if shared:
            ratios.append(np.median(shared))
    return float(np.median(ratios)) if ratios else 1.0


def estimated(profile: Profile, ratio: float, origin: Hardware, target: Hardware) -> Profile:
    """Give the profile that a model is taken to have on `target`, from that on `origin`.

    Latencies times `ratio`. Among machines without a GPU the same threads are another share of
    the cores; otherwise demand stays. A measured curve holds only on what it was measured on,
    and so do shares of the SMs and power.
    """
    demand = profile.demand
    if origin.cores and target.cores and not (origin.gpus or target.gpus):
        scale = origin.cores / target.cores
        demand = tuple(
            (batch, min(1.0, max(_LEAST_DEMAND, share * scale))) for batch, share in demand
        )
    return replace(
        profile,
        points=tuple((batch, latency_s * ratio) for batch, latency_s in profile.points),
        demand=demand,
        interference=(),
        sm_share=(),
        watts=0.0,
        provenance=Provenance.ESTIMATED,
    )
