"""Where many models that look for a place at once should go, so that they share nodes well.

One by one each would take what is cheapest for it alone. Together they are packed, again and
again: kinds of hardware that ran out count as dearer than they are, so that those who need them
most get them, and orders are tried that differ. The cheapest packing that was found says which
nodes each of them is to ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paldia.core.config import PolicyConfig
from paldia.core.placement.occupancy import Fleet
from paldia.core.placement.packing import Dice, Item, Packing, Room
from paldia.core.placement.questions import Hint, Question
from paldia.core.sharing.costs import Floats

_ROUNDS = 6
"""Attempts after which prices are adapted to what runs out, each time by less."""
_EFFORT = 5000
"""Models that are packed, all attempts together."""
_NOISE = 2.0
"""By how much a model may count as greater than it is, as a share, when orders are tried."""


def room_of(fleet: Fleet, config: PolicyConfig) -> Room:
    """See a fleet as a packing does."""
    firsts = [fleet.part(kind).start for kind in fleet.hardware]
    return Room(
        kind=fleet.kind,
        price_usd_per_hour=fleet.price_usd_per_hour[firsts],
        used=fleet.used,
        ceiling=np.minimum(config.utilisation_limit, fleet.used + fleet.slack),
        left_bytes=fleet.capacity_bytes - fleet.used_bytes,
        running=fleet.count > 0,
        usable=fleet.usable,
    )


class Options:
    """The leanest way of one model on each kind of hardware, by the kind's number.

    Attributes:
        nodes: how many nodes it takes; `way`, the column of the way; -1 where it can't be.
    """

    def __init__(self, question: Question, fleet: Fleet) -> None:
        kinds = len(fleet.hardware)
        self.used, self.share = np.full(kinds, np.inf), np.full(kinds, np.inf)
        self.memory_bytes, self.ceiling = np.zeros(kinds), np.zeros(kinds)
        self.nodes = np.ones(kinds)
        self.way = [-1] * kinds
        for number, kind in enumerate(fleet.hardware):
            row = question.kinds.get(kind)
            if row is None:
                continue
            offers, at = row.offers, row.row
            capacity_bytes = float(fleet.capacity_bytes[fleet.part(kind).start])
            used, memory_bytes = offers.used[at], offers.memory_bytes[at]
            ceiling = np.minimum(row.ask.limit, used + offers.tolerance[at])
            able = (
                (offers.tolerance[at] >= 0) & (used <= ceiling) & (memory_bytes <= capacity_bytes)
            )
            if not able.any():
                continue
            part, held = used / np.maximum(1e-9, ceiling), memory_bytes / capacity_bytes
            way = int(np.where(able, part + held, np.inf).argmin())
            self.way[number] = way
            self.used[number], self.memory_bytes[number] = used[way], memory_bytes[way]
            self.ceiling[number] = ceiling[way]
            self.share[number] = max(part[way], held[way], 1e-9)
            self.nodes[number] = offers.nodes[at]

    def on_one_node(self) -> Options:
        """Leave out what takes several nodes."""
        several = self.nodes > 1
        self.used[several] = self.share[several] = np.inf
        self.nodes[several] = 1
        return self

    def items(self, model: str, price_usd_per_hour: Floats) -> list[Item]:
        """Give its items at such prices: on any kind if one node does, else on the cheapest."""
        able = np.isfinite(self.share)
        costs = np.full(len(able), np.inf)
        costs[able] = (price_usd_per_hour * self.nodes)[able] * self.share[able]
        kind = int(costs.argmin())
        count = int(self.nodes[kind])
        if not np.isfinite(costs[kind]):
            return []
        there = self.nodes == 1 if count == 1 else np.arange(len(costs)) == kind
        used, share = np.where(there, self.used, np.inf), np.where(there, self.share, np.inf)
        item = Item(model, used, self.memory_bytes, self.ceiling, share, float(costs[kind]) / count)
        return [item] * count


def packed(questions: Sequence[Question], fleet: Fleet, config: PolicyConfig) -> list[Question]:
    """Give each question the hint where to go; those that fit nowhere get none."""
    able = [question for question in questions if not question.memory.avoid]
    if len(able) < 2 or not fleet.hardware:
        return list(questions)
    options = [Options(question, fleet) for question in able]
    room = room_of(fleet, config)
    names = [question.view.model.name for question in able]
    best = _best(names, options, room)
    hints: dict[str, Hint] = {}
    for number, item in enumerate(best.items):
        if best.place[number] >= 0:
            hint = hints.setdefault(item.model, Hint(()))
            hints[item.model] = Hint((*hint.nodes, best.place[number]))
    for name, chosen in zip(names, options, strict=True):
        if name in hints:
            kind = int(fleet.kind[hints[name].nodes[0]])
            complete = len(hints[name].nodes) == int(chosen.nodes[kind])
            hints[name] = replace(hints[name], way=chosen.way[kind] if complete else -1)
    return [replace(question, hint=hints.get(question.view.model.name)) for question in questions]


def _best(names: Sequence[str], options: Sequence[Options], room: Room) -> Packing:
    """Pack again and again, in other orders, and take the cheapest; small sets more often."""
    dice = Dice(len(names))
    prices = room.price_usd_per_hour.copy()
    scarce = np.ones(len(prices), dtype=np.bool_)
    items = _items(names, options, prices)
    best: tuple[tuple[int, float], Packing] | None = None
    for attempt in range(max(_ROUNDS, _EFFORT // max(1, len(items)))):
        noise = 0.0 if scarce.any() and attempt < _ROUNDS else _NOISE
        eagerness = [1 + noise * dice.below(1000) / 1000 for _ in items]
        packing = Packing(items, replace(room, price_usd_per_hour=prices), eagerness)
        numbers = range(len(items))
        packing.open_for(packing.fill_running(numbers))
        missing = sum(packing.place[number] < 0 for number in numbers)
        opened = [node for node in packing.contents if not room.running[node]]
        spent = float(room.price_usd_per_hour[room.kind[opened]].sum())
        if best is None or (missing, spent) < best[0]:
            best = (missing, spent), packing
        scarce = packing.exhausted()
        if attempt < _ROUNDS:
            factor = 1 + 1 / (attempt + 1)
            prices = np.maximum(
                room.price_usd_per_hour, np.where(scarce, prices * factor, prices / factor)
            )
            items = _items(names, options, prices)
    return best[1] if best else packing


def _items(names: Sequence[str], options: Sequence[Options], prices: Floats) -> list[Item]:
    pairs = zip(names, options, strict=True)
    return [item for name, option in pairs for item in option.items(name, prices)]
