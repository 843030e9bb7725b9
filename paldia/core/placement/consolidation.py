"""Nodes that can be done without: savings that no single model's move would bring.

A node, or a few, are emptied into others that run and, where that isn't enough, into new ones
that cost less together. Whoever moves must keep its SLO well, as with any move that only saves
money, and hurt nobody; and nobody moves to where others have to make room first. A proposal
has to win for as long as any other saving: those who wait for it are known by the time at
which they began to, and each step finds it anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from paldia.core.config import PolicyConfig
from paldia.core.observation import Memory
from paldia.core.placement.choice import pays
from paldia.core.placement.occupancy import Fleet
from paldia.core.placement.packing import Dice, Packing
from paldia.core.placement.questions import Hint, Question
from paldia.core.placement.together import Options, room_of
from paldia.core.profiles import Profile

NODES_LIMIT = 8
"""Nodes that are looked at in one step, besides those of proposals that are pending."""
_GROUPS_EACH = 6
"""Groups of nodes that are tried for each node whose turn it is."""
_GROUP_LIMIT = 4
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it spread numbers evenly between whole ones."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Nodes to empty, those who are on them, with the hint where to go, and what that saves."""

    nodes: tuple[int, ...]
    questions: tuple[Question, ...]
    saved_usd_per_hour: float


def pending(
    fleet: Fleet, nodes: Sequence[int], before: Memory, after: Memory
) -> dict[float, list[int]]:
    """Give the nodes of proposals that wait, by the time since when they do.

    Whoever a saving of its own waits for isn't part of any.
    """
    groups: dict[float, list[int]] = {}
    for node in nodes:
        times = [
            before[load.model].saving_since_s
            for load in fleet.loads(node)
            if load.model in before and after[load.model].saving_since_s is None
        ]
        known = [time_s for time_s in times if time_s is not None]
        if known and len(known) == len(fleet.loads(node)):
            groups.setdefault(max(known), []).append(node)
    return groups


def due(
    fleet: Fleet, nodes: Sequence[int], since_s: float, now_s: float, every_s: float
) -> tuple[list[int], list[int]]:
    """Give the nodes whose turn came after `since_s`, and others worth looking at beside them.

    Each has a turn once in `every_s` seconds; those on which most money is wasted come first.
    """
    wasted = sorted(nodes, key=lambda node: (-_wasted_usd_per_hour(fleet, node), node))

    def turn(node: int, time_s: float) -> float:
        return math.floor(time_s / every_s + node * _GOLDEN % 1)

    first = [node for node in wasted if turn(node, now_s) > turn(node, since_s)]
    first = first[: NODES_LIMIT // 2]
    beside = [node for node in wasted if node not in first][: NODES_LIMIT - len(first)]
    return (first, beside) if first else ([], [])


def _wasted_usd_per_hour(fleet: Fleet, node: int) -> float:
    filled = float(fleet.preference[node]) - 1
    return float(fleet.price_usd_per_hour[node]) * (1 - filled)


class Consolidation:
    """Looks for nodes that can be done without.

    `questions` are those of all who are on the nodes that may be emptied, each on one node,
    judged as for a saving.
    """

    def __init__(self, questions: Sequence[Question], fleet: Fleet, config: PolicyConfig) -> None:
        self._fleet = fleet
        self._config = config
        self._room = room_of(fleet, config)
        self._questions = {question.view.model.name: question for question in questions}
        self._options = {
            name: Options(question, fleet).on_one_node()
            for name, question in self._questions.items()
        }

    def search(self, turns: Sequence[int], others: Sequence[int], now_s: float) -> Proposal | None:
        """Give the first proposal that pays, of those that empty one of `turns`."""
        for node in turns:
            for group in self._groups(node, [*turns, *others], now_s):
                proposal = self.without(group)
                if proposal is not None:
                    return proposal
        return None

    def _groups(self, node: int, others: Sequence[int], now_s: float) -> Iterator[tuple[int, ...]]:
        """Give the node alone, and then with some others; other ones at other times."""
        yield (node,)
        dice = Dice(node * 1_000_003 + int(now_s))
        rest = [other for other in others if other != node]
        for _ in range(_GROUPS_EACH if rest else 0):
            count = 1 + dice.below(_GROUP_LIMIT - 1)
            yield tuple(sorted({node, *(rest[dice.below(len(rest))] for _ in range(count))}))

    def without(self, nodes: Sequence[int]) -> Proposal | None:
        """Find other places for all that some nodes hold; None if none that pay."""
        names = [load.model for node in nodes for load in self._fleet.loads(node)]
        usable = self._room.usable.copy()
        usable[list(nodes)] = False
        items = [
            item
            for name in names
            for item in self._options[name].items(name, self._room.price_usd_per_hour)
        ]
        if len(items) < len(names):
            return None
        packing = Packing(items, replace(self._room, usable=usable))
        price = packing.price(nodes)
        order = sorted(range(len(items)), key=lambda item: (-items[item].worth, item))
        spent = packing.open_for([item for item in order if not packing.insert(item)], price)
        saved = price - spent
        if min(packing.place) < 0 or not pays(saved, self._start_usd(packing), self._config):
            return None
        return Proposal(
            tuple(nodes),
            tuple(
                replace(self._questions[name], hint=self._hint(name, node))
                for name, node in zip(names, packing.place, strict=True)
            ),
            saved,
        )

    def _hint(self, name: str, node: int) -> Hint:
        return Hint((node,), self._options[name].way[int(self._fleet.kind[node])])

    def _start_usd(self, packing: Packing) -> float:
        """What new nodes cost until all they are for has been loaded."""
        total = 0.0
        for node, items in packing.contents.items():
            if not self._room.running[node]:
                hardware = self._fleet.at(node).hardware
                loads_s = [
                    profile.load_s
                    for item in items
                    if (profile := self._profile(packing.items[item].model, hardware.name))
                ]
                until_s = hardware.activation_s + max(loads_s, default=0.0)
                total += hardware.price_usd_per_hour * until_s / 3600
        return total

    def _profile(self, name: str, kind: str) -> Profile | None:
        return self._questions[name].view.profiles.get(kind)
