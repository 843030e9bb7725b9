"""Until when those who wait do so unserved."""

from __future__ import annotations

import heapq
import math
from typing import TypeAlias

from paldia.core.dispatch.requests import Key, Stay

_Entry: TypeAlias = tuple[float, Key, int, Stay]
_DEAD_MOST = 64


class Timers:
    """Those who wait no longer than to a certain time, by that time and then by their order.

    Entries that no longer hold are dropped when they come first, or are the greater part.

    Attributes:
        next_s: time of the next that is to expire; infinity if there is none.
    """

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._entry_of: dict[Stay, _Entry] = {}
        self._entries = 0
        self.next_s = math.inf

    def wait_until(self, stay: Stay, until_s: float) -> None:
        """Let a stay wait until then, and not as long as was said before; infinity for ever."""
        entry = self._entry_of.get(stay)
        if entry is not None and entry[0] == until_s:
            return
        if until_s == math.inf:
            self.forget(stay)
            return
        self._entries += 1
        entry = self._entry_of[stay] = (until_s, stay.order, self._entries, stay)
        heapq.heappush(self._heap, entry)
        self._sweep()

    def forget(self, stay: Stay) -> None:
        """Note that a stay has ended, if it is known here."""
        if self._entry_of.pop(stay, None) is not None:
            self._sweep()

    def first(self) -> Stay:
        """Give the one that is to expire next, where there is one."""
        return self._heap[0][3]

    def _sweep(self) -> None:
        """Leave an entry that holds at the head, and not too many others."""
        heap, entry_of = self._heap, self._entry_of
        if len(heap) > _DEAD_MOST + 2 * len(entry_of):
            heap[:] = [entry for entry in heap if entry_of.get(entry[3]) == entry]
            heapq.heapify(heap)
        while heap and entry_of.get(heap[0][3]) != heap[0]:
            heapq.heappop(heap)
        self.next_s = heap[0][0] if heap else math.inf
