"""Instances: models with their demand, and a fleet to put them on, from a seed.

The same seed and size give the same instance on any machine. Each model is one of the catalog's
workloads at an input size of its own, so no two have the same profiles, and nothing that a planner
keeps from one model helps it with the next.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paldia import catalog
from paldia.catalog import Workload
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, Slo

REFERENCE = "p3.2xlarge"
FEW = 4
SLO_S = (0.1, 0.2, 0.5)
LEAST_SHARE, GREATEST_SHARE = 0.02, 0.5
"""Of a reference machine's time, that a model's requests take in batches of eight."""
INPUT_SIZES = (0.6, 1.6)
"""What a batch's time is multiplied by, at least and at most."""
DISPERSIONS = (1.0, 1.0, 1.5, 3.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One model, the demand for it, and its profile by kind of hardware.

    Attributes:
        dispersion: index of dispersion of its arrivals.
    """

    model: Model
    requests_per_second: float
    dispersion: float
    profiles: Mapping[str, Profile]


@dataclass(frozen=True, slots=True)
class Instance:
    """Models to place, and the hardware by node id."""

    name: str
    cases: tuple[Case, ...]
    nodes: Mapping[str, Hardware]

    @property
    def kinds(self) -> dict[str, Hardware]:
        """The kinds of hardware, by name."""
        return {kind.name: kind for kind in self.nodes.values()}


def generate(seed: int, models: int, nodes: int, scarce: Sequence[str] = ()) -> Instance:
    """Make an instance of `models` models and `nodes` nodes.

    The kinds of hardware take turns; there are only `FEW` nodes of those that are `scarce`.
    """
    dice = random.Random(f"{seed} {models} {nodes}")  # noqa: S311 (repeatable, not secret)
    kinds = catalog.hardware()
    workloads = list(catalog.workloads().values())
    few = [kinds[name] for name in scarce for _ in range(FEW)]
    plenty = [kind for name, kind in kinds.items() if name not in scarce]
    fleet = [*few, *(plenty[index % len(plenty)] for index in range(nodes - len(few)))]
    return Instance(
        f"{models}x{nodes}-{seed}" + (f" few {', '.join(scarce)}" if scarce else ""),
        tuple(_case(f"model-{index:04}", dice, workloads) for index in range(models)),
        {f"node-{index:04}": kind for index, kind in enumerate(fleet)},
    )


def _case(name: str, dice: random.Random, workloads: Sequence[Workload]) -> Case:
    size = dice.uniform(*INPUT_SIZES)
    profiles = {
        kind: replace(
            profile,
            points=tuple((batch, latency_s * size) for batch, latency_s in profile.points),
        )
        for kind, profile in dice.choice(workloads).profiles.items()
    }
    share = LEAST_SHARE * (GREATEST_SHARE / LEAST_SHARE) ** dice.random()
    return Case(
        Model(name, "a" * 64, Slo(dice.choice(SLO_S))),
        share * 8 / profiles[REFERENCE].latency_s(8),
        dice.choice(DISPERSIONS),
        profiles,
    )
