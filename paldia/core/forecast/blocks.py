"""The recent past in little room: maxima of the newest blocks, at three lengths.

A block is a stretch of time; of each only its highest one-second rate is kept. Blocks of
1, 10 and 60 s, the newest 30 of each, reach back half an hour in fewer than 100 numbers,
and whatever is older has no influence at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

BLOCK_LENGTHS_S = (1.0, 10.0, 60.0)
"""One second is what a rate is taken over; a minute is about what it takes to get a node."""
BLOCKS_KEPT = 30
WHOLE_SECOND_S = 0.9
"""Shorter samples are put together first: over a fraction of a second chance alone gives
high rates. A little less than a second, as timers aren't exact."""


class Blocks(NamedTuple):
    """Maxima of the newest blocks of one length.

    Attributes:
        kept: the finished blocks' maxima in requests/s, oldest first, `BLOCKS_KEPT` at most;
            0 where a block stayed at or below its ceiling.
        highest: the maximum of the block in progress, `elapsed_s` seconds old.
        ceiling: what the block in progress must exceed to be remembered; below 0 for any.
    """

    kept: tuple[float, ...] = ()
    highest: float = 0.0
    elapsed_s: float = 0.0
    ceiling: float = -1.0

    def after(self, rate: float, interval_s: float, length_s: float, ceiling: float) -> Blocks:
        """Add a sample; a block that begins with the next one gets `ceiling`."""
        highest = rate if rate > self.highest else self.highest
        elapsed_s = self.elapsed_s + interval_s
        # To the nearest second: a block of 60 samples must not wait for a 61st.
        if elapsed_s < length_s - WHOLE_SECOND_S / 2:
            return Blocks(self.kept, highest, elapsed_s, self.ceiling)
        # A sample may be longer than a block; then it is all that is known of several.
        ended = min(BLOCKS_KEPT, max(1, round(elapsed_s / length_s)))
        kept, value = self.kept, highest
        if highest <= self.ceiling:
            value = 0.0
            if kept and kept[-1] > 0:
                # What began late in the block before goes on, and may only now be at its height.
                kept = (*kept[:-1], max(kept[-1], highest))
        return Blocks((kept + (value,) * ended)[-BLOCKS_KEPT:], 0.0, 0.0, ceiling)

    @property
    def surpassing(self) -> list[float]:
        """Give the maxima above their ceilings, the block in progress included, unordered."""
        values = [value for value in self.kept if value > 0]
        if self.highest > max(0.0, self.ceiling):
            values.append(self.highest)
        return values


class Ladder(NamedTuple):
    """Blocks of all lengths, and what isn't a whole second yet.

    Attributes:
        arrivals: requests in the newest `seconds` seconds, fewer than a whole one.
        blocks: one for each of `BLOCK_LENGTHS_S`.
    """

    arrivals: float = 0.0
    seconds: float = 0.0
    blocks: tuple[Blocks, ...] = (Blocks(),) * len(BLOCK_LENGTHS_S)

    def after(
        self, arrivals: float, interval_s: float, ceilings: Sequence[float] = (-1.0, -1.0, -1.0)
    ) -> Ladder:
        """Add `arrivals` requests seen over `interval_s` seconds."""
        arrivals += self.arrivals
        seconds = self.seconds + interval_s
        if seconds < WHOLE_SECOND_S:
            return Ladder(arrivals, seconds, self.blocks)
        rate = arrivals / seconds
        return Ladder(
            0.0,
            0.0,
            tuple(
                [
                    blocks.after(rate, seconds, length_s, ceiling)
                    for blocks, length_s, ceiling in zip(
                        self.blocks, BLOCK_LENGTHS_S, ceilings, strict=True
                    )
                ]
            ),
        )

    def begun(self, ceilings: Sequence[float]) -> Ladder:
        """Give the blocks in progress these ceilings."""
        return self._replace(
            blocks=tuple(
                blocks._replace(ceiling=ceiling)
                for blocks, ceiling in zip(self.blocks, ceilings, strict=True)
            )
        )

    def state(self) -> tuple[float, ...]:
        """Give all of it as numbers."""
        numbers = [self.arrivals, self.seconds]
        for kept, *progress in self.blocks:
            numbers += [*progress, len(kept), *kept]
        return tuple(map(float, numbers))

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Ladder:
        """Undo `state`.

        Raises:
            ValueError: these numbers are not the state of a ladder.
        """
        arrivals, seconds, *rest = state
        every = []
        for _ in BLOCK_LENGTHS_S:
            highest_rate, elapsed_s, ceiling, count, *rest = rest
            kept, rest = tuple(rest[: int(count)]), rest[int(count) :]
            if not (0 <= count <= BLOCKS_KEPT and len(kept) == count):
                raise ValueError(f"{count:g} blocks are promised, {len(kept)} follow")
            every.append(Blocks(kept, highest_rate, elapsed_s, ceiling))
        if rest:
            raise ValueError(f"{len(rest)} numbers are left over")
        return cls(arrivals, seconds, tuple(every))


def at_horizon(
    horizon_s: float, quantile: float, peak_in_block: Callable[[int, float], float]
) -> float:
    """Peak within `horizon_s`, from the peaks within each of `BLOCK_LENGTHS_S`.

    `peak_in_block(index, quantile)` answers for one block of that length. Between two
    lengths it goes in a straight line over the logarithm of the horizon; beyond the last,
    several blocks must all stay below the answer, each as if on its own. It never falls as
    the horizon grows, as no maximum does.
    """
    reached_s, reached = BLOCK_LENGTHS_S[0], peak_in_block(0, quantile)
    for index, length_s in enumerate(BLOCK_LENGTHS_S):
        if index == 0:
            continue
        if horizon_s <= reached_s:
            return reached
        value = max(reached, peak_in_block(index, quantile))
        if horizon_s < length_s:
            way = math.log(horizon_s / reached_s) / math.log(length_s / reached_s)
            return reached + way * (value - reached)
        reached_s, reached = length_s, value
    if horizon_s <= reached_s:
        return reached
    return max(
        reached, peak_in_block(len(BLOCK_LENGTHS_S) - 1, quantile ** (reached_s / horizon_s))
    )
