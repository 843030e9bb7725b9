"""Sequences: each stays on one node, one step at a time, in the order its steps came."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from paldia.core.errors import OverloadedError

SEQUENCES_MOST = 10_000


@dataclass(slots=True)
class Sequence:
    """A sequence of requests; `node_id` is where its state is, once its first step has run."""

    node_id: str | None = None
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sequences:
    """The sequences last used, by model and id."""

    def __init__(self, most: int = SEQUENCES_MOST) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, str | int], Sequence] = OrderedDict()

    @asynccontextmanager
    async def step(
        self, model: str, sequence_id: str | int | None, *, is_last: bool
    ) -> AsyncIterator[Sequence]:
        """Wait for the steps before this one; set `node_id` inside.

        Without a `sequence_id` it is the only step of its own.

        Raises:
            OverloadedError: more sequences are in the middle of a step than are remembered.
        """
        if sequence_id is None:
            yield Sequence()
            return
        key = (model, sequence_id)
        sequence = self._known.get(key)
        if sequence is None:
            self._make_room()
            sequence = self._known[key] = Sequence()
        self._known.move_to_end(key)
        sequence.users += 1
        try:
            async with sequence.turn:
                yield sequence
        finally:
            sequence.users -= 1
            if is_last and not sequence.users and self._known.get(key) is sequence:
                del self._known[key]

    def _make_room(self) -> None:
        if len(self._known) < self._most:
            return
        idle = next((key for key, it in self._known.items() if not it.users), None)
        if idle is None:
            raise OverloadedError(f"{self._most} sequences are at work; end some, or wait")
        del self._known[idle]
