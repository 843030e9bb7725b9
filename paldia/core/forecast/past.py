"""`window-max` and `quantile`: what comes is what came, and no model of it.

Both keep only maxima of recent blocks. They say what was the highest, and how often a
block was how high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from paldia.core.config import PolicyConfig
from paldia.core.forecast import noise
from paldia.core.forecast.base import dispersion_after, not_a_state
from paldia.core.forecast.blocks import BLOCK_LENGTHS_S, BLOCKS_KEPT, Ladder, at_horizon

WINDOW_S = 10
"""The rate now is the highest second of the last 10 for `window-max`."""
FORGOTTEN_BLOCKS = 10.0
"""Blocks after which one counts 1/e as much for `quantile`."""


@dataclass(frozen=True, slots=True)
class Past:
    """Blocks of the past, and how unevenly requests came.

    Attributes:
        ladder: maxima of one-second rates.
        dispersion: see `RateEstimate`, as are the rest.
    """

    ladder: Ladder = field(default_factory=Ladder)
    dispersion: float = 1.0
    last_rate: float = 0.0
    last_interval_s: float = 0.0

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> Past:
        """Give the past with `arrivals` requests over `interval_s` seconds added."""
        rate = arrivals / interval_s
        dispersion = dispersion_after(self, rate, interval_s, config)
        return Past(self.ladder.after(arrivals, interval_s), dispersion, rate, interval_s)

    def seconds(self) -> tuple[float, ...]:
        """Give the newest one-second rates, or the newest sample if there is no whole second."""
        return self.ladder.blocks[0].kept or (self.last_rate,)

    def state(self) -> tuple[float, ...]:
        """Give all of it as numbers."""
        return (self.dispersion, self.last_rate, self.last_interval_s, *self.ladder.state())

    @classmethod
    def from_state(cls, name: str, state: Sequence[float]) -> Past:
        """Undo `state`, of the forecaster `name`."""
        try:
            dispersion, last_rate, last_interval_s, *rest = state
            return cls(Ladder.from_state(rest), dispersion, last_rate, last_interval_s)
        except ValueError as error:
            raise not_a_state(name, state, error) from None


@dataclass(frozen=True, slots=True)
class WindowMax:
    """`window-max`: the highest rate of a window as long as the confidence asks for.

    If all seconds are alike, the highest of W + h seconds is among the last h of them with
    probability h / (W + h); so W = h q / (1 - q) gives a maximum that is surpassed with
    probability 1 - q.
    """

    name: ClassVar[str] = "window-max"

    past: Past = field(default_factory=Past)

    @property
    def requests_per_second(self) -> float:
        """The highest of the last `WINDOW_S` seconds."""
        return max(self.past.seconds()[-WINDOW_S:])

    @property
    def dispersion(self) -> float:
        """See `RateEstimate`."""
        return self.past.dispersion

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> WindowMax:
        """Give the forecaster updated by `arrivals` requests seen over `interval_s` seconds."""
        return self if interval_s <= 0 else WindowMax(self.past.after(arrivals, interval_s, config))

    def peak(self, horizon_s: float, quantile: float) -> float:
        """Give the maximum over the window, which is never longer than half an hour."""
        noise.check(horizon_s, quantile)
        window_s = max(1.0, horizon_s) * quantile / (1 - quantile)
        fits = [window_s <= length_s * BLOCKS_KEPT for length_s in BLOCK_LENGTHS_S]
        # The finest blocks that reach back far enough, or all there is.
        index = fits.index(True) if any(fits) else len(fits) - 1
        blocks, length_s = self.past.ladder.blocks[index], BLOCK_LENGTHS_S[index]
        count = min(BLOCKS_KEPT, math.ceil(max(0.0, window_s - blocks.elapsed_s) / length_s))
        newest = blocks.kept[max(0, len(blocks.kept) - count) :]
        return max(blocks.highest, self.past.seconds()[-1], *newest)

    def state(self) -> tuple[float, ...]:
        """Give all of it as numbers."""
        return self.past.state()

    @classmethod
    def from_state(cls, state: Sequence[float]) -> WindowMax:
        """Undo `state`."""
        return cls(Past.from_state(cls.name, state))


@dataclass(frozen=True, slots=True)
class BlockQuantile:
    """`quantile`: the quantile of the maxima of blocks as long as the horizon, older ones less."""

    name: ClassVar[str] = "quantile"

    past: Past = field(default_factory=Past)

    @property
    def requests_per_second(self) -> float:
        """The median of the last seconds, older ones less."""
        return forgetting_quantile(self.past.seconds(), 0.5)

    @property
    def dispersion(self) -> float:
        """See `RateEstimate`."""
        return self.past.dispersion

    def after(self, arrivals: float, interval_s: float, config: PolicyConfig) -> BlockQuantile:
        """Give the forecaster updated by `arrivals` requests seen over `interval_s` seconds."""
        if interval_s <= 0:
            return self
        return BlockQuantile(self.past.after(arrivals, interval_s, config))

    def peak(self, horizon_s: float, quantile: float) -> float:
        """Give the quantile, at least that of the last seconds' rates."""
        noise.check(horizon_s, quantile)
        return at_horizon(horizon_s, quantile, self._in_block)

    def _in_block(self, index: int, quantile: float) -> float:
        blocks = self.past.ladder.blocks[index]
        maxima = (*blocks.kept, blocks.highest) if blocks.elapsed_s > 0 else blocks.kept
        return forgetting_quantile(maxima, quantile) if maxima else self.past.last_rate

    def state(self) -> tuple[float, ...]:
        """Give all of it as numbers."""
        return self.past.state()

    @classmethod
    def from_state(cls, state: Sequence[float]) -> BlockQuantile:
        """Undo `state`."""
        return cls(Past.from_state(cls.name, state))


def forgetting_quantile(values: Sequence[float], quantile: float) -> float:
    """Quantile of values that count exponentially less the older they are; newest last."""
    weighted = sorted(
        (value, math.exp((at + 1 - len(values)) / FORGOTTEN_BLOCKS))
        for at, value in enumerate(values)
    )
    wanted = quantile * sum(weight for _, weight in weighted)
    below = 0.0
    for value, weight in weighted:
        below += weight
        if below >= wanted:
            return value
    return weighted[-1][0]
