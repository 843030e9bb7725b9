"""Small scenarios for the simulator's tests, and arrivals made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, OverloadPolicy, Slo
from paldia.sim.scenario import Fault, Scenario, SimModel, Times

SLOW = Hardware("slow", 0.36, 8 << 30, activation_s=20.0, idle_watts=50.0, rated_watts=150.0)
FAST = Hardware("fast", 3.6, 16 << 30, gpus=1, activation_s=30.0)
SLOW_PROFILE = Profile(((1, 0.05), (4, 0.14)), 2.0, 1 << 30)
FAST_PROFILE = Profile(((1, 0.008), (32, 0.039)), 4.0, 1 << 30, demand=((1, 0.3), (32, 0.9)))
PROFILES = {"slow": SLOW_PROFILE, "fast": FAST_PROFILE}


@dataclass(frozen=True)
class At:
    """Requests at given times."""

    times_s: tuple[float, ...]
    duration_s: float = 1e9
    chunk: int = 3

    def chunks(self) -> Iterator[Times]:
        for first in range(0, len(self.times_s), self.chunk):
            yield np.array(self.times_s[first : first + self.chunk])


@dataclass(frozen=True)
class Poisson:
    """Requests at random, the same each time; ten times the rate during a rush."""

    rate: float
    duration_s: float
    seed: int = 1
    rush_s: tuple[float, float] = (0.0, 0.0)

    def chunks(self) -> Iterator[Times]:
        for first_s in np.arange(0.0, self.duration_s, 10.0):
            dice = np.random.default_rng((self.seed, int(first_s)))
            high = self.rush_s[0] <= first_s < self.rush_s[1]
            span_s = min(10.0, self.duration_s - first_s)
            count = dice.poisson(self.rate * span_s * (10 if high else 1))
            yield np.sort(first_s + dice.uniform(0, span_s, count))


@dataclass
class World:
    """A scenario in the making."""

    arrivals: dict[str, At | Poisson]
    duration_s: float
    nodes: dict[str, Hardware] = field(default_factory=lambda: {"f0": FAST, "s0": SLOW})
    profiles: dict[str, Profile] = field(default_factory=lambda: dict(PROFILES))
    slo_s: float = 0.2
    on_overload: OverloadPolicy = OverloadPolicy.QUEUE
    min_replicas: int = 1
    keep_alive_s: float = 600.0
    max_batch: int = 0
    faults: tuple[Fault, ...] = ()
    warmup_s: float = 100.0

    def scenario(self) -> Scenario:
        models = tuple(
            SimModel(
                Model(
                    name,
                    "a" * 64,
                    Slo(self.slo_s),
                    max_batch=self.max_batch,
                    min_replicas=self.min_replicas,
                    keep_alive_s=self.keep_alive_s,
                    on_overload=self.on_overload,
                ),
                self.profiles,
                arrivals,
            )
            for name, arrivals in self.arrivals.items()
        )
        return Scenario(
            models, self.nodes, self.duration_s, faults=self.faults, warmup_s=self.warmup_s
        )
