"""The order in which requests wait, and which of them may share a batch.

Order: priority (1 first, then 0, then 2 and up), then the earliest deadline, then arrival.
A batch is the first request in order and the next ones like it, in order, while they fit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")

_DEAD_MOST = 64
PRIORITY_LAST = 8
"""Priorities beyond count as this one."""


@dataclass(frozen=True, slots=True)
class Request:
    """What dispatch knows of a request.

    Attributes:
        rows: size of its batch dimension.
        arrival_s: when it came; the same clock as everywhere in dispatch.
        deadline_s: when its caller gives up, if ever.
        priority: 1 first, 0 in the middle, as Triton has it.
        like_key: requests with equal keys may share a batch; None shares with nobody.
        size_bytes: its weight against the limits.
        node_id: the only node that will do, as long as that has a lane.
    """

    request_id: int
    model: str
    rows: int
    arrival_s: float
    deadline_s: float | None = None
    priority: int = 0
    like_key: Hashable | None = None
    size_bytes: int = 0
    node_id: str | None = None

    @property
    def rank(self) -> int:
        """Place of its priority: 0 goes first."""
        if self.priority == 0:
            return 1
        return 0 if self.priority == 1 else max(2, min(self.priority, PRIORITY_LAST))


Key: TypeAlias = tuple[float, ...]


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
        while heap and not self._is_live(heap[0][0], heap[0][2]):
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][2] if heap else None

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


@dataclass(slots=True, eq=False)
class Stay:
    """A request's stay in a queue; one that returns after a failure gets a new one.

    Attributes:
        order: its place; no other request has the same.
        attempts: batches it was in that failed.
        avoid: the node where the last of them failed.
        alone: whether it may share a batch no more.
        queued: whether it waits now.
        until_s: when it stops waiting, unserved.
        batch_id: the batch it is in, once it no longer waits.
    """

    request: Request
    order: Key
    attempts: int = 0
    avoid: str | None = None
    alone: bool = False
    queued: bool = False
    until_s: float = math.inf
    batch_id: int | None = None

    def __post_init__(self) -> None:
        self.alone = self.alone or self.request.like_key is None

    def again(self, failed_node: str | None, alone: bool) -> Stay:
        """Give the stay that follows a failed batch, at the same place in the order.

        A node that failed it counts as an attempt.
        """
        return Stay(
            self.request,
            self.order,
            attempts=self.attempts + (failed_node is not None),
            avoid=failed_node or self.avoid,
            alone=self.alone or alone,
        )


def _is_queued(_: Key, stay: Stay) -> bool:
    return stay.queued


class _LikeGroup:
    __slots__ = ("count", "heap", "rows")

    def __init__(self) -> None:
        self.heap: LazyHeap[Stay] = LazyHeap(_is_queued)
        self.rows = 0
        self.count = 0


class RequestQueue:
    """Requests of one model that may go to the same lanes."""

    def __init__(self) -> None:
        self.rows = 0
        self._count = 0
        self._heap: LazyHeap[Stay] = LazyHeap(_is_queued)
        self._groups: dict[Hashable, _LikeGroup] = {}

    def __len__(self) -> int:
        return self._count

    def push(self, stay: Stay) -> None:
        """Let a request wait."""
        stay.queued = True
        self._count += 1
        self.rows += stay.request.rows
        self._heap.push(stay.order, stay)
        if not stay.alone:
            key = stay.request.like_key
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _LikeGroup()
            group.count += 1
            group.rows += stay.request.rows
            group.heap.push(stay.order, stay)

    def remove(self, stay: Stay) -> None:
        """Take a request out, wherever in the order it stands."""
        stay.queued = False
        self._count -= 1
        self.rows -= stay.request.rows
        self._heap.note_dead()
        if not stay.alone:
            group = self._groups[stay.request.like_key]
            group.count -= 1
            group.rows -= stay.request.rows
            if group.count == 0:
                del self._groups[stay.request.like_key]
            else:
                group.heap.note_dead()

    def waiting(self) -> list[Stay]:
        """Give all that wait, in order."""
        return self._heap.live()

    def first(self) -> Stay | None:
        """Give the first request in order."""
        return self._heap.top()

    def rows_like(self, stay: Stay) -> int:
        """Rows that could share a batch with a queued request, its own included."""
        if stay.alone:
            return stay.request.rows
        return self._groups[stay.request.like_key].rows

    def take_batch(self, first: Stay, rows_limit: int, bytes_limit: int) -> list[Stay]:
        """Remove `first` and those like it, in order, while rows and bytes fit.

        A request that is over a limit by itself is taken alone.
        """
        batch = [first]
        rows, size_bytes = first.request.rows, first.request.size_bytes
        group = None if first.alone else self._groups[first.request.like_key]
        self.remove(first)
        while group is not None and group.count:
            stay = group.heap.top()
            if stay is None:
                break
            rows += stay.request.rows
            size_bytes += stay.request.size_bytes
            if rows > rows_limit or size_bytes > bytes_limit:
                break
            batch.append(stay)
            self.remove(stay)
        return batch
