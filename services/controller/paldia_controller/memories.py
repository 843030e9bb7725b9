"""Keeps what the planner remembers of each model: a key for each, since together they outgrow one.

What changes with a model's plan is written in the commit that changes it. All else is written in
turn, what was saved longest ago first, as much as a commit has room for. So whatever ends this
process finds each model's memory as one of its commits wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from paldia.core.observation import Memory
from paldia.store.base import Delete, Put
from paldia_controller import encoding
from paldia_controller.room import Room
from paldia_controller.state import State

SAVE_EVERY_S = 10.0
"""How often what is remembered, and the bill, is saved when no plan changes."""


class Memories:
    """Says what has to be written so that nothing is forgotten."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._saved_s: dict[str, float] = {}
        """When each model's memory was last saved."""

    def restored(self) -> Memory:
        """Give what was last saved of each model."""
        return encoding.memory_from_proto(row.message for row in self._state.memories.rows.values())

    def due(self, memory: Memory, now_s: float) -> list[str]:
        """Give the models whose memory is to be saved again, the one saved longest ago first."""
        rows = self._state.memories.rows
        # Times may lie ahead of now: clocks are set back.
        late = [
            name
            for name in memory
            if abs(now_s - self._saved_s.get(name, -math.inf)) >= SAVE_EVERY_S
        ]
        # By the store's count, which goes on where a process that was killed left it.
        return sorted(late, key=lambda name: (rows[name].revision if name in rows else 0, name))

    def writes(
        self,
        memory: Memory,
        changed: Collection[str],
        now_s: float,
        beside: Sequence[Put | Delete],
    ) -> dict[str, Put | Delete]:
        """Give the write for each model whose memory is due, as far as there is room for them.

        Args:
            changed: models whose memory is written already.
            beside: what else is in the commit, those among it.
        """
        room, table = Room(beside), self._state.memories
        writes: dict[str, Put | Delete] = {
            name: table.delete(name) for name in sorted(table.rows) if name not in memory
        }
        for name in self.due(memory, now_s):
            writes[name] = table.put(name, encoding.memory_to_proto(name, memory[name]))
        return {
            name: write
            for name, write in writes.items()
            if name not in changed and room.add([write])
        }

    def written(self, names: Collection[str], memory: Memory, now_s: float) -> None:
        """Note whose memory has been saved."""
        known = {name: at_s for name, at_s in self._saved_s.items() if name in memory}
        self._saved_s = known | {name: now_s for name in names if name in memory}
