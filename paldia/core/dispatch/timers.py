"""Until when those who wait do so unserved."""

from __future__ import annotations

import math

from paldia.core.dispatch.queue import LazyHeap
from paldia.core.dispatch.requests import Key, Stay


def _waits_until(key: Key, stay: Stay) -> bool:
    return stay.queued and stay.until_s == key[0]


class Timers:
    """Those who wait no longer than to a certain time, by that time and then by their order."""

    def __init__(self) -> None:
        self._heap: LazyHeap[Stay] = LazyHeap(_waits_until)

    def wait_until(self, stay: Stay, until_s: float) -> None:
        """Let a stay wait until then, and not as long as was said before; infinity for ever."""
        if until_s == stay.until_s:
            return
        was_s, stay.until_s = stay.until_s, until_s
        if was_s < math.inf:
            self._heap.note_dead()
        if until_s < math.inf:
            self._heap.push((until_s, *stay.order), stay)

    def forget(self, stay: Stay) -> None:
        """Note that a stay has ended, or waits for another time."""
        if stay.until_s < math.inf:
            self._heap.note_dead()

    def expired(self, now_s: float) -> Stay | None:
        """Give the first stay whose time is over."""
        stay = self._heap.top()
        return stay if stay is not None and stay.until_s <= now_s else None

    def next_s(self) -> float:
        """Time of the next that is to expire; infinity if there is none."""
        stay = self._heap.top()
        return math.inf if stay is None else stay.until_s
