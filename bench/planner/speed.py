"""How long the planner takes, in processor time of one core."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.planner.drive import World
from bench.planner.instances import Instance, generate
from paldia.core import engine
from paldia.core.config import PolicyConfig

CHANGED_SHARE = 0.01
FACTORS = (0.6, 1.6)
"""What a changed demand is multiplied by."""
QUIET_S, SETTLE_LIMIT_S = 5, 60
TICKS_IN_A_ROW = 40
RUNS = 7
TICKS = 15
ENOUGH_S = 20.0
"""Runs beyond the second are left out once so much has been spent."""
SEED = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds that the runs took, in order."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Half of the runs took less."""
        return statistics.median(self.seconds)

    @property
    def spread_s(self) -> tuple[float, float]:
        """The shortest and the longest run."""
        return min(self.seconds), max(self.seconds)


@dataclass(frozen=True, slots=True)
class Speed:
    """One size of fleet, with as many models as nodes.

    Attributes:
        full: a step in which every model is new.
        tick: a step after everything has settled in which 1 % of demands have changed, tried
            in each of some seconds in a row without being carried out; `judged` models were
            looked at in the median.
        row: steps one after the other, in each of which another 1 % change, whose moves are
            carried out; reviews of models that stay put come with them.
        settled_s: steps until nothing changed any more.
    """

    size: int
    full: Sample
    tick: Sample
    judged: float
    row: Sample
    row_judged: float
    settled_s: int


Say = Callable[[str], None]


def measure(size: int, say: Say) -> Speed:
    """Measure one size."""
    instance = generate(SEED, size, size)
    config = PolicyConfig()
    say("full plan")
    full = _full(instance, config)
    world = World(instance, config, foreseen=False)
    say("waiting until it has settled")
    settled_s = world.settle(QUIET_S, SETTLE_LIMIT_S)
    dice = random.Random(size)  # noqa: S311 (repeatable, not secret)
    say("ticks")
    ticks = []
    for _ in range(TICKS):
        ticks.append(_tick(world, _changed(world, dice)))
        world.settle(quiet_s=1, limit_s=1)
    row = []
    for number in range(TICKS_IN_A_ROW):
        say(f"tick {number + 1} of {TICKS_IN_A_ROW} in a row")
        world.rates = _changed(world, dice)
        seconds, step = _tick(world, world.rates)
        world.obey(step)
        row.append((seconds, step))
    return Speed(
        size,
        full,
        Sample(tuple(seconds for seconds, _ in ticks)),
        statistics.median(len(step.decisions) for _, step in ticks),
        Sample(tuple(seconds for seconds, _ in row)),
        statistics.mean(len(step.decisions) for _, step in row),
        settled_s,
    )


def _full(instance: Instance, config: PolicyConfig) -> Sample:
    world = World(instance, config, foreseen=False)
    observation = world.observation(world.rates, 1.0)
    seconds: list[float] = []
    while len(seconds) < RUNS and (len(seconds) < 2 or sum(seconds) < ENOUGH_S):
        start_s = time.process_time()
        step = engine.step(observation, world.memory, config)
        seconds.append(time.process_time() - start_s)
        placed = sum(bool(plan.target) for plan in step.plan.values())
        if placed < len(instance.cases):
            raise ValueError(
                f"{len(instance.cases) - placed} of {len(instance.cases)} models got no place "
                f"in {instance.name}; the figures would be those of another problem"
            )
    return Sample(tuple(seconds))


def _changed(world: World, dice: random.Random) -> dict[str, float]:
    """Give the rates with 1 % of them changed, one at least."""
    names = list(world.rates)
    chosen = dice.sample(names, max(1, round(CHANGED_SHARE * len(names))))
    base = {case.model.name: case.requests_per_second for case in world.instance.cases}
    return world.rates | {name: base[name] * dice.choice(FACTORS) for name in chosen}


def _tick(world: World, rates: dict[str, float]) -> tuple[float, engine.Step]:
    observation = world.observation(rates, 1.0)
    start_s = time.process_time()
    step = engine.step(observation, world.memory, world.config)
    return time.process_time() - start_s, step


def growth(speeds: Sequence[Speed], of: Callable[[Speed], float]) -> float | None:
    """Give the power of the size with which a time grows, over the upper half of the sizes."""
    upper = [speed for speed in speeds if speed.size >= 100]
    if len(upper) < 2:
        return None
    slope = statistics.linear_regression(
        [_log(speed.size) for speed in upper], [_log(of(speed)) for speed in upper]
    ).slope
    return float(slope)


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))
