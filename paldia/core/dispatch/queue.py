"""The order in which requests wait, and which of them may share a batch.

Order: priority (1 first, then 0, then 2 and up), then the earliest deadline, then arrival.
A batch is the first request in order and the next ones like it, in order, while they fit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from paldia.core.dispatch.requests import Key, Stay

Item = TypeVar("Item")

_DEAD_MOST = 64


class LazyHeap(Generic[Item]):
    """A heap whose items may leave from its middle.

    What has left is skipped when it reaches the top, and swept out when it is the greater part.
    """

    def __init__(self, is_live: Callable[[Key, Item], bool]) -> None:
        self._is_live = is_live
        self._heap: list[tuple[Key, int, Item]] = []
        self._pushes = 0
        self._dead = 0

    def push(self, key: Key, item: Item) -> None:
        """Add an item; equal keys go by time of adding."""
        self._pushes += 1
        heapq.heappush(self._heap, (key, self._pushes, item))

    def top(self) -> Item | None:
        """Give the least live item."""
        heap = self._heap
        while self._dead and heap and not self._is_live(heap[0][0], heap[0][2]):
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][2] if heap else None

    def pop(self) -> None:
        """Remove the item that `top` has just given."""
        heapq.heappop(self._heap)

    def note_dead(self) -> None:
        """Note that an item has ceased to be live."""
        self._dead += 1
        if self._dead > _DEAD_MOST and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if self._is_live(entry[0], entry[2])]
            heapq.heapify(self._heap)
            self._dead = 0

    def live(self) -> list[Item]:
        """Give all live items in order."""
        return [item for key, _, item in sorted(self._heap) if self._is_live(key, item)]


def _stands_there(order: Key, stay: Stay) -> bool:
    # A run whose head was taken stands further back than where it was put.
    return stay.queued and stay.order is order


class _LikeGroup:
    """Those in a queue that may share batches."""

    __slots__ = ("count", "heap", "rows")

    def __init__(self) -> None:
        self.heap: LazyHeap[Stay] = LazyHeap(_stands_there)
        self.rows = 0
        self.count = 0


class RequestQueue:
    """Requests of one model that may go to the same lanes."""

    def __init__(self) -> None:
        self.rows = 0
        self._count = 0
        self._heap: LazyHeap[Stay] = LazyHeap(_stands_there)
        self._groups: dict[Hashable, _LikeGroup] = {}
        # The group that was the last to become empty: most often it is wanted again at once.
        self._spare: _LikeGroup | None = None

    def __len__(self) -> int:
        return self._count

    def push(self, stay: Stay) -> None:
        """Let a stay begin."""
        stay.queued = True
        self._count += stay.count
        self.rows += stay.rows
        self._heap.push(stay.order, stay)
        if not stay.alone:
            key = stay.request.like_key
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = self._spare or _LikeGroup()
                self._spare = None
            group.count += stay.count
            group.rows += stay.rows
            group.heap.push(stay.order, stay)

    def remove(self, stay: Stay) -> None:
        """Take a stay out, wherever in the order it stands."""
        stay.queued = False
        self._heap.note_dead()
        if stay.alone:
            self._count -= stay.count
            self.rows -= stay.rows
            return
        group = self._groups[stay.request.like_key]
        group.heap.note_dead()
        self._count_out(group, stay)

    def waiting(self) -> list[Stay]:
        """Give all that wait, in order."""
        return self._heap.live()

    def first(self) -> Stay | None:
        """Give what has the first request in order."""
        return self._heap.top()

    def rows_like(self, stay: Stay) -> int:
        """Rows that could share a batch with a queued request, its own included."""
        return stay.request.rows if stay.alone else self._groups[stay.request.like_key].rows

    def take_batch(self, first: Stay, rows_limit: int, bytes_limit: int) -> list[Stay]:
        """Remove the first request of `first` and those like it, in order, while they fit.

        A request that is over a limit by itself is taken alone.
        """
        if first.alone:
            self.remove(first)
            return [first]
        group = self._groups[first.request.like_key]
        batch: list[Stay] = []
        stay = group.heap.top()
        while stay is not None:
            fits = stay.count_within(rows_limit, bytes_limit)
            if fits < 1 and batch:
                break
            part = self._take(group, stay, max(1, fits))
            batch.append(part)
            if not group.count:
                break
            rows_limit -= part.rows
            bytes_limit -= part.size_bytes
            stay = group.heap.top()
        return batch

    def _take(self, group: _LikeGroup, stay: Stay, most: int) -> Stay:
        """Remove requests at the head of a group's first stay, up to where another's begin."""
        group.heap.pop()
        is_first = self._heap.top() is stay
        if is_first:
            self._heap.pop()
        if group.count > stay.count and (following := group.heap.top()) is not None:
            most = min(most, stay.count_before(following.order))
        if most >= stay.count:
            stay.queued = False
            self._note_left(is_first)
            self._count_out(group, stay)
            return stay
        part = stay.cut(most)
        self._note_left(is_first)
        self._count_out(group, part)
        group.heap.push(stay.order, stay)
        self._heap.push(stay.order, stay)
        return part

    def _note_left(self, was_first: bool) -> None:
        # Not before it has left: a sweep would keep it, and count it no more.
        if not was_first:
            self._heap.note_dead()

    def _count_out(self, group: _LikeGroup, stay: Stay) -> None:
        self._count -= stay.count
        self.rows -= stay.rows
        group.count -= stay.count
        group.rows -= stay.rows
        if not group.count:
            del self._groups[stay.request.like_key]
            self._spare = group
