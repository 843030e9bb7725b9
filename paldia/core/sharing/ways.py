"""The best way for a model to share a device, by each of the rules.

Many models are judged at once, each on one kind of hardware: every batch size and lane count
of every one of them, beside neighbours who take this or that much of the device. What can't
keep up drops out, and of what is left the least latency wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from paldia.core.config import PolicyConfig
from paldia.core.profiles import Amount
from paldia.core.sharing.asks import TINY, Ask, Stack
from paldia.core.sharing.costs import Floats, Ints, held_costs
from paldia.core.sharing.prediction import Prediction, SharingRule, Way, batch_sizes, queued_batches

SM_PERCENTS = tuple(range(10, 101, 10))
LANES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lane counts that are tried, up to the limit."""
CHUNK_VALUES = 12_000
"""Numbers in one array of a calculation, so that those at work stay in a core's cache."""
_OVERLOADED_TIE = 0.01
"""Share by which throughputs are alike where none is enough."""
_BATCHES_WAITED = 2
"""Batches that must end within what is allowed: the one just missed, and one's own."""
_SPACE_LANES_LIMIT = 32
"""Most batches at once under pure space sharing; it has no limit of its own."""


def best_ways(
    asks: Sequence[Ask],
    levels: Floats,
    rule: SharingRule,
    config: PolicyConfig,
    *,
    leanest: bool = True,
) -> tuple[Ints, Ints]:
    """Give (batch, lanes) of the ways worth having, a row for each ask.

    For sharing in lanes: the best beside each level of neighbours, `levels` having a row for
    each ask or one for all, and then, if `leanest`, the way that takes the least room of those
    that bear as many neighbours as the device does. The other rules give ways that differ in
    what memory they take, or just one.
    """
    if rule in (SharingRule.LANES, SharingRule.TIME):
        limit = config.lanes_limit if rule is SharingRule.LANES else 1
        return _in_chunks(asks, levels, limit, config, leanest=leanest)
    if rule is SharingRule.FIXED:
        meant = [replace(ask, demand=ask.mean or ask.demand, now=None) for ask in asks]
        return _in_chunks(meant, np.zeros((1, 1)), config.lanes_limit, config, leanest=False)
    if rule is SharingRule.SPACE:
        shapes = [_all_at_once(ask) for ask in asks]
    elif rule is SharingRule.PAPER:
        shapes = [[_queue_some(ask, config)] for ask in asks]
    else:
        shapes = [[(ask.largest, 1)] for ask in asks]
    pairs = np.array(shapes, dtype=np.int64)
    return pairs[..., 0], pairs[..., 1]


def _in_chunks(
    asks: Sequence[Ask],
    levels: Floats,
    lanes_limit: int,
    config: PolicyConfig,
    *,
    leanest: bool,
) -> tuple[Ints, Ints]:
    lanes = np.array([count for count in LANES if count <= lanes_limit])
    sizes = [batch_sizes(ask.largest) for ask in asks]
    ways = levels.shape[1] + leanest
    step = max(1, CHUNK_VALUES // (max(map(len, sizes), default=1) * len(lanes) * ways))
    batch = np.empty((len(asks), ways), dtype=np.int64)
    count = np.empty_like(batch)
    for first in range(0, len(asks), step):
        part = slice(first, first + step)
        beside = levels[part] if len(levels) > 1 else levels
        grid = _Grid(asks[part], sizes[part], lanes, beside, leanest=leanest)
        batch[part], count[part] = grid.best(config)
    return batch, count


class _Grid:
    """All batch sizes and lane counts of some asks, beside all levels of neighbours.

    Axes: ask, level of neighbours, lanes, batch size. Where the leanest way is sought too, the
    last level is a device that is as full as it may be.
    """

    def __init__(
        self,
        asks: Sequence[Ask],
        sizes: Sequence[tuple[int, ...]],
        lanes: Ints,
        levels: Floats,
        *,
        leanest: bool,
    ) -> None:
        self.asks = asks
        self.leanest = leanest
        self.stack = Stack(asks, axes=3)
        self.counts = lanes
        most = max(map(len, sizes))
        self.sizes = np.array([(*row, *[row[-1]] * (most - len(row))) for row in sizes])
        self.batch = self.sizes[:, np.newaxis, np.newaxis, :]
        self.lanes = lanes.reshape(1, 1, -1, 1)
        way = Way(self.stack.costs, self.batch, self.lanes)
        self.used = (
            self.stack.demand.requests_per_second / self.batch * way.full_s * way.full_demand
        )
        self.others = np.empty((len(asks), levels.shape[1] + leanest, 1, most))
        self.others[:, : levels.shape[1]] = levels[:, :, np.newaxis, np.newaxis]
        if leanest:
            self.others[:, -1:] = np.maximum(0.0, self.stack.limit - self.used)
        self.memory_lanes = np.array([ask.most_lanes for ask in asks]).reshape(-1, 1, 1, 1)
        # Lanes beyond those that fill the device only get in each other's way.
        self.useful = (self.lanes <= np.ceil(1 / way.full_demand)) & (
            self.lanes <= self.memory_lanes
        )

    def best(self, config: PolicyConfig) -> tuple[Ints, Ints]:
        """Take the least latency among those that keep up; if none does, what gets most done.

        Measured latencies differ by `improvement` from day to day, so what differs by less is
        a tie, unless it is about the SLO. Ties go to what runs now, then to fewer lanes, then
        to the batches that take least of the device.
        """
        most_lanes = int(self.counts[-1])
        foretold, able = self.stack.foretell(
            self.batch, self.lanes, self.others, config, most_lanes
        )
        able = _flat(able & self.useful & (self.used + self.others <= self.stack.limit + TINY))
        latency_s = _flat(foretold.latency_s)
        usable, keeps_up = able, able.any(axis=-1, keepdims=True)
        if not keeps_up.all():
            usable = np.where(keeps_up, able, self._best_of_bad(foretold))
        times_s = np.where(usable, latency_s, math.inf)
        least_s = times_s.min(axis=-1, keepdims=True)
        kept = least_s <= self.stack.allowed_s[..., 0]
        tied = times_s <= np.where(
            kept,
            np.minimum(least_s / (1 - config.improvement), self.stack.allowed_s[..., 0]),
            least_s / (1 - config.improvement),
        )
        rank = np.arange(len(self.counts)).reshape(1, 1, -1, 1) + self.used / (1 + self.used)
        chosen = np.where(tied, _flat(rank), math.inf).argmin(axis=-1)
        now = self._position_now()
        still = tied[np.arange(len(now)), :, np.maximum(0, now)]
        chosen = np.where((now >= 0)[:, np.newaxis] & still, now[:, np.newaxis], chosen)
        if self.leanest:
            chosen[:, -1] = self._leanest(able[:, -1], latency_s[:, -1], chosen[:, -1])
        lane, size = np.divmod(chosen, self.sizes.shape[1])
        return self.sizes[np.arange(len(self.sizes))[:, np.newaxis], size], self.counts[lane]

    def _best_of_bad(self, foretold: Prediction) -> npt.NDArray[np.bool_]:
        """Mark the ways that get most done, of those that get anything done in time.

        A request that has just missed a batch has to wait for it and for its own: where both
        take longer than is allowed, a high throughput helps nobody.
        """
        useful = _flat(self.useful)
        capacity = np.where(useful, _flat(foretold.capacity), 0.0)
        batch_s = _flat(self.batch * self.lanes) / np.maximum(TINY, capacity)
        prompt = useful & (_BATCHES_WAITED * batch_s <= self.stack.allowed_s[..., 0])
        chosen = np.where(prompt.any(axis=-1, keepdims=True), prompt, useful)
        capacity = np.where(chosen, capacity, 0.0)
        most = (1 - _OVERLOADED_TIE) * capacity.max(axis=-1, keepdims=True)
        return np.asarray(chosen & (capacity >= most))

    def _position_now(self) -> Ints:
        """Where in the grid the way is that each has now; -1 if nowhere."""
        now = np.array([ask.now or (0, 0) for ask in self.asks])
        at = (self.sizes[:, np.newaxis, :] == now[:, :1, np.newaxis]) & (
            self.counts[np.newaxis, :, np.newaxis] == now[:, 1:, np.newaxis]
        )
        flat = at.reshape(len(self.asks), -1)
        return np.where(flat.any(axis=-1), flat.argmax(axis=-1), -1)

    def _leanest(self, able: Amount, latency_s: Amount, otherwise: Ints) -> Ints:
        """Take the least room, in work or in memory, of those that bear a full device."""
        bears = able & (latency_s <= self.stack.allowed_s.reshape(-1, 1))
        room = self.used / self.stack.limit + self.lanes / np.maximum(1, self.memory_lanes)
        leanest = np.where(bears, _flat(room)[:, -1], math.inf).argmin(axis=-1)
        return np.where(bears.any(axis=-1), leanest, otherwise)


def _flat(values: Amount) -> Amount:
    """Put lanes and batch sizes on one axis."""
    return values.reshape(*values.shape[:2], -1)


def _all_at_once(ask: Ask) -> list[tuple[int, int]]:
    """As systems that share in space do: half of the SLO is for forming a batch, half to run it.

    As many at once as the memory allows, or a half, a quarter, an eighth of that where others
    have taken the rest.
    """
    half_s = ask.demand.slo.latency_s / 2
    fitting = [size for size in batch_sizes(ask.largest) if ask.profile.latency_s(size) <= half_s]
    batch = fitting[-1] if fitting else 1
    most = min(_SPACE_LANES_LIMIT, ask.most_lanes)
    return [(batch, max(1, most >> halvings)) for halvings in range(4)]


def _queue_some(ask: Ask, config: PolicyConfig) -> tuple[int, int]:
    """By the source paper's idea: of one window's batches queue some, run the rest together."""
    profile, demand = ask.profile, ask.demand
    expected = demand.requests_per_second * demand.slo.latency_s
    burst = config.burst_z * math.sqrt(expected * demand.dispersion)
    pending = max(1, demand.backlog + math.ceil(expected + burst))
    best: tuple[float, tuple[int, int]] | None = None
    for size in batch_sizes(ask.largest):
        batches = math.ceil(pending / size)
        share = profile.demand_fraction(size)
        queued = queued_batches(batches, share, profile.colocation_penalty)
        lanes = min(max(1, batches - queued), ask.most_lanes)
        slowdown = float(profile.slowdown(lanes, share))
        time_s = profile.latency_s(min(size, pending)) * (batches - lanes + slowdown)
        if best is None or time_s < best[0]:
            best = time_s, (size, lanes)
    return best[1] if best else (1, 1)


def least_sm_share(ask: Ask, batch: int, lanes: int, others: float, config: PolicyConfig) -> int:
    """Give the least percentage of the SMs with which a process still keeps its SLO.

    `others` is the share of the device that neighbours take; 100 where no less will do, or
    it can't be held to any.
    """
    if not ask.profile.sm_share:
        return 100
    costs = held_costs(ask.profile, SM_PERCENTS, axes=1)
    foretold, able = Stack([ask], 1, costs).foretell(
        np.array([[batch]]), np.array([[lanes]]), np.array([[others]]), config, lanes
    )
    kept = able & (foretold.latency_s <= ask.allowed_s)
    return SM_PERCENTS[int(kept.argmax())] if kept.any() else 100
