"""Packing many models' work onto as few dollars an hour of nodes as can be found.

What a node holds is bounded by three sums: the memory of all, the share of the device that
they take together, and that share as the least tolerant of them bears it: with u what one takes
and t what others may take beside it, all together may take the least u + t there is among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paldia.core.sharing.asks import TINY
from paldia.core.sharing.costs import Floats, Ints

_GRADES = 20
"""Steps in which it counts how well a kind suits an item; within one the greatest goes first."""
_MISSES_LIMIT = 48
"""Items that are tried in vain for what is left of a node before it counts as full."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """The work of a model that goes to one node; each array has a number for a kind.

    Attributes:
        used: share of the device that it takes; inf where it can't be.
        memory_bytes: of all its lanes. `ceiling`, the share that all on the node may take.
        share: part of a whole node that it takes.
        worth: dollars an hour that its work costs at least.
    """

    model: str
    used: Floats
    memory_bytes: Floats
    ceiling: Floats
    share: Floats
    worth: float


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """The nodes, by number, and what is on them that stays there.

    Attributes:
        kind: of each node, by number; `price_usd_per_hour` of each kind.
        used, ceiling, left_bytes: what is taken, what may be taken, and memory that is left.
        running: whether something keeps it running; `usable`, whether more may go there.
    """

    kind: Ints
    price_usd_per_hour: Floats
    used: Floats
    ceiling: Floats
    left_bytes: Floats
    running: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]


class Dice:
    """Numbers that look random and are the same each time: a linear congruential generator."""

    def __init__(self, seed: int) -> None:
        self._state = seed % (1 << 32)

    def below(self, limit: int) -> int:
        """Give a number from 0 up to but not including `limit`."""
        self._state = (self._state * 1664525 + 1013904223) % (1 << 32)
        return (self._state >> 8) * limit >> 24


class Packing:
    """A packing under way.

    Attributes:
        place: node of each item; -1 while it has none.
        contents: items by node, of those nodes that hold any.
    """

    def __init__(
        self, items: Sequence[Item], room: Room, eagerness: Sequence[float] | None = None
    ) -> None:
        """`eagerness` is by how much greater than it is an item counts when its turn is found."""
        self.items = items
        self._eagerness = eagerness or [1.0] * len(items)
        self.room = room
        self.used, self.ceiling = room.used.copy(), room.ceiling.copy()
        self.left_bytes = room.left_bytes.copy()
        self.open = room.running & room.usable
        self.place = [-1] * len(items)
        self.contents: dict[int, list[int]] = {}
        kinds = range(len(room.price_usd_per_hour))
        spare = room.usable & ~room.running
        self._prices = room.price_usd_per_hour.tolist()
        self._free = [np.nonzero(spare & (room.kind == kind))[0].tolist()[::-1] for kind in kinds]
        self._of_kind = [
            list(
                zip(
                    item.used.tolist(),
                    item.memory_bytes.tolist(),
                    item.ceiling.tolist(),
                    strict=True,
                )
            )
            for item in items
        ]
        same: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            same.setdefault(item.model, []).append(number)
        self._siblings = [
            [other for other in same[item.model] if other != number]
            for number, item in enumerate(items)
        ]

    # One item, one node.

    def add(self, item: int, node: int) -> None:
        """Put an item on a node."""
        self.place[item] = node
        self.contents.setdefault(node, []).append(item)
        self._count(item, node)

    def _count(self, item: int, node: int) -> None:
        used, memory_bytes, ceiling = self._of_kind[item][self.room.kind[node]]
        self.used[node] += used
        self.left_bytes[node] -= memory_bytes
        self.ceiling[node] = min(self.ceiling[node], ceiling)

    def insert(self, item: int) -> bool:
        """Put an item on the open node that it fills most; false if none has room for it."""
        own, kind = self.items[item], self.room.kind
        after = self.used + own.used[kind]
        most = np.minimum(self.ceiling, own.ceiling[kind])
        fits = self.open & (after <= most + TINY) & (own.memory_bytes[kind] <= self.left_bytes)
        for other in self._siblings[item]:
            if self.place[other] >= 0:
                fits[self.place[other]] = False
        filled = np.where(fits, after / most, -1.0)
        node = int(filled.argmax())
        if filled[node] < 0:
            return False
        self.add(item, node)
        return True

    # Many items, new nodes.

    def fill(self, node: int, order: Iterable[int]) -> list[int]:
        """Choose of some items, in order, those that a node has room for."""
        kind = int(self.room.kind[node])
        used, ceiling = float(self.used[node]), float(self.ceiling[node])
        left_bytes = float(self.left_bytes[node])
        chosen: dict[int, None] = {}
        misses = 0
        for item in order:
            own, memory_bytes, bears = self._of_kind[item][kind]
            lower = min(ceiling, bears)
            if used + own > lower + TINY or memory_bytes > left_bytes:
                misses += 1
                if misses > _MISSES_LIMIT:
                    break
            elif not any(o in chosen or self.place[o] == node for o in self._siblings[item]):
                used, ceiling, left_bytes = used + own, lower, left_bytes - memory_bytes
                chosen[item] = None
        return list(chosen)

    def ordered(self, items: Iterable[int], kind: int) -> list[int]:
        """Sort items by how well a kind suits them, and of one grade the greatest first."""
        price = self._prices[kind]

        def key(item: int) -> tuple[int, float, int]:
            share = float(self.items[item].share[kind])
            grade = round(self.items[item].worth / max(TINY, price * share) * _GRADES)
            return (-grade, -share * self._eagerness[item], item)

        return sorted((item for item in items if self.items[item].share[kind] <= 1), key=key)

    def fill_running(self, items: Sequence[int]) -> list[int]:
        """Fill up what runs anyway, the dearest nodes first; give the items that are left."""
        left = dict.fromkeys(items)
        kinds = range(len(self._prices))
        for kind in sorted(kinds, key=lambda kind: (-self._prices[kind], kind)):
            order = self.ordered(left, kind)
            for node in np.nonzero(self.open & (self.room.kind == kind))[0].tolist():
                chosen = self.fill(node, order)
                for item in chosen:
                    self.add(item, node)
                    del left[item]
                if chosen:
                    order = [item for item in order if item in left]
        return list(left)

    def open_for(self, items: Sequence[int], limit_usd_per_hour: float = math.inf) -> float:
        """Open nodes for items, each time the kind that holds most for its price; give the price.

        It ends when all have a place, when no kind can take any of the rest, and beyond the
        limit.
        """
        left = dict.fromkeys(items)
        orders = [self.ordered(items, kind) for kind in range(len(self._prices))]
        fills: dict[int, list[int]] = {}
        spent = 0.0
        while left and spent <= limit_usd_per_hour:
            best: tuple[float, int] | None = None
            for kind, price in enumerate(self._prices):
                if not self._free[kind]:
                    continue
                if kind not in fills or any(item not in left for item in fills[kind]):
                    orders[kind] = [item for item in orders[kind] if item in left]
                    fills[kind] = self.fill(self._free[kind][-1], orders[kind])
                worth = sum(self.items[item].worth for item in fills[kind])
                score = (price / max(worth, TINY), kind)
                if fills[kind] and (best is None or score < best):
                    best = score
            if best is None:
                break
            kind = best[1]
            node = self._free[kind].pop()
            self.open[node] = True
            spent += self._prices[kind]
            for item in fills.pop(kind):
                self.add(item, node)
                del left[item]
        return spent

    def exhausted(self) -> npt.NDArray[np.bool_]:
        """Say of which kinds no node is left that could be opened, though there were some."""
        spare = self.room.usable & ~self.room.running
        return np.array(
            [
                not free and bool(spare[self.room.kind == kind].any())
                for kind, free in enumerate(self._free)
            ]
        )

    def price(self, nodes: Iterable[int]) -> float:
        """Give the price of nodes together."""
        return float(sum(self._prices[self.room.kind[node]] for node in nodes))
