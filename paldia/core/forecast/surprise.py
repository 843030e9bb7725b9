"""`surprise`: chance around a steady level, unless it is again as it was when chance didn't do.

It keeps two things. The *level* is the mean of the seconds since the rate last jumped, so
it is steady while nothing happens and new at once when something does. And of each block
of the past it remembers whether the block's peak was a *surprise*, above what chance could
have made of the level at its beginning, and how high that was. What comes is then as
chance has it, or, as often as there were surprises, as high as one of them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from paldia.core.config import PolicyConfig
from paldia.core.forecast import noise
from paldia.core.forecast.base import dispersion_after, not_a_state
from paldia.core.forecast.blocks import BLOCK_LENGTHS_S, Ladder, at_horizon

LEVEL_SECONDS = 10.0
"""Most seconds that a level is the mean of."""
JUMP_DEVIATIONS = 3.0
"""Chance alone goes that far once in six minutes."""
_SILENCE_REQUESTS = -math.log(noise.normal_probability(-JUMP_DEVIATIONS))
"""Poisson arrivals are silent when so many are due as seldom as chance goes that far. However
uneven arrivals are, silence is no scatter about the level: it is the end of it."""
SURPRISE_QUANTILE = 0.99
"""A block's peak that chance stays below with this probability is a surprise."""
_CEILING_DEVIATIONS = tuple(
    noise.normal_quantile(SURPRISE_QUANTILE ** (1 / length_s)) for length_s in BLOCK_LENGTHS_S
)


@dataclass(frozen=True, slots=True)
class Surprise:
    """See the module.

    Attributes:
        requests_per_second: the level, over the last `level_s` seconds.
        dispersion: see `RateEstimate`, as are `last_rate` and `last_interval_s`.
        ladder: maxima of those blocks that were a surprise.
    """

    name: ClassVar[str] = "surprise"

    requests_per_second: float = 0.0
    level_s: float = 0.0
    dispersion: float = 1.0
    last_rate: float = 0.0
    last_interval_s: float = 0.0
    ladder: Ladder = field(default_factory=Ladder)

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> Surprise:
        """Give the forecaster updated by `arrivals` requests seen over `interval_s` seconds."""
        if interval_s <= 0:
            return self
        sample = arrivals / interval_s
        first = self.level_s <= 0
        dispersion = dispersion_after(self, sample, interval_s, config)
        rate, level_s = self.requests_per_second, self.level_s + interval_s
        if first or self._jumps(arrivals, interval_s):
            rate, level_s = sample, min(interval_s, LEVEL_SECONDS)
        else:
            level_s = min(level_s, LEVEL_SECONDS)
            rate += min(1.0, interval_s / level_s) * (sample - rate)
        deviation = math.sqrt(max(rate, 1.0) * dispersion)
        ceilings = [rate + deviations * deviation for deviations in _CEILING_DEVIATIONS]
        ladder = (
            self.ladder.begun(ceilings)
            if first
            else self.ladder.after(arrivals, interval_s, ceilings)
        )
        return Surprise(rate, level_s, dispersion, sample, interval_s, ladder)

    def _jumps(self, arrivals: float, interval_s: float) -> bool:
        """Whether a sample is too far off the level for chance; a single request never is."""
        expected = self.requests_per_second * interval_s
        if arrivals <= 0 and expected > _SILENCE_REQUESTS:
            return True
        variance = max(1.0, expected) * self.dispersion * (1 + interval_s / self.level_s)
        return abs(arrivals - expected) > JUMP_DEVIATIONS * math.sqrt(variance)

    def peak(self, horizon_s: float, quantile: float) -> float:
        """Invert the distribution of the higher of chance and, perhaps, a surprise."""
        noise.check(horizon_s, quantile)
        return at_horizon(horizon_s, quantile, self._in_block)

    def _in_block(self, index: int, quantile: float) -> float:
        """Find x with G(x) (1 - p + p B(x)) = quantile.

        G is chance's distribution of the highest second, p the share of blocks with a
        surprise, B the distribution of how high those were.
        """
        blocks, seconds = self.ladder.blocks[index], BLOCK_LENGTHS_S[index]
        rate = self.requests_per_second
        deviation = math.sqrt(rate * self.dispersion)
        surprises = sorted(blocks.surpassing)
        # One more, a calm one, so that a single block never passes for certainty.
        total = 1 + max(len(blocks.kept), len(surprises))
        calm = 1 - len(surprises) / total

        def reached(at: int) -> bool:
            chance = noise.stays_below(surprises[at], rate, deviation, seconds)
            return chance * (calm + (at + 1) / total) >= quantile

        at = bisect.bisect_left(range(len(surprises)), True, key=reached)
        share = calm + at / total
        if quantile >= share:
            return surprises[at]
        value = noise.highest(rate, deviation, seconds, quantile / share)
        # Up to the next surprise only chance moves; there the distribution leaps.
        return min(value, surprises[at]) if at < len(surprises) else value

    def state(self) -> tuple[float, ...]:
        """Give all of it as numbers."""
        return (
            self.requests_per_second,
            self.level_s,
            self.dispersion,
            self.last_rate,
            self.last_interval_s,
            *self.ladder.state(),
        )

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Surprise:
        """Undo `state`."""
        try:
            rate, level_s, dispersion, last_rate, last_interval_s, *rest = state
            ladder = Ladder.from_state(rest)
        except ValueError as error:
            raise not_a_state(cls.name, state, error) from None
        return cls(rate, level_s, dispersion, last_rate, last_interval_s, ladder)
