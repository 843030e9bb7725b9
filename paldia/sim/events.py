"""What is due when, apart from requests and batches: steps, starts, mishaps."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

Action = Callable[[float], None]
"""What to do, given the time it is."""


class Agenda:
    """Actions by time; of those due together, the one entered first goes first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._entered = 0

    @property
    def next_s(self) -> float:
        """When something is due next; infinity for never."""
        return self._heap[0][0] if self._heap else math.inf

    def enter(self, at_s: float, action: Action) -> None:
        """Have something done at a time."""
        self._entered += 1
        heapq.heappush(self._heap, (at_s, self._entered, action))

    def do_next(self) -> None:
        """Do what is due next."""
        at_s, _, action = heapq.heappop(self._heap)
        action(at_s)
