"""What waits: a request, or a run of requests that differ only in when they came.

A run means what its requests would mean one by one, and costs as much as one of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeAlias

PRIORITY_LAST = 8
"""Priorities beyond count as this one."""

LATE_RANK = 0.5
"""What being late adds to a request's rank."""

Key: TypeAlias = tuple[float, ...]
"""A place in the order: rank, when it is due, and which it was to come."""


class Request(NamedTuple):
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

    # As every request makes one: a named tuple takes a quarter of a frozen dataclass's time.
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


class Stay:
    """The stay in a queue of a request, or of a run of them: alike, and one after another.

    Attributes:
        request: the first, when they came; the others differ only in their ids, which count
            up from its own, and their arrivals.
        first_id: id of the first that is still here.
        arrivals_s: when each came, ascending.
        order: the first one's place; no other request has the same.
        slo_s: by when each is due, counted from its arrival.
        count: how many they are; `rows` and `size_bytes` are of all of them.
        attempts: batches they were in that failed.
        avoid: the node where the last of those failed.
        late: whether they let others of their rank pass, since they can't be in time.
        alone: whether it may share a batch no more. A run is parted before it is to be alone.
        batch_id: the batch it is in, once it no longer waits.
    """

    __slots__ = (
        *("alone", "arrivals_s", "attempts", "avoid", "batch_id", "count", "first_id", "late"),
        *("order", "request", "rows", "size_bytes", "slo_s"),
    )

    def __init__(
        self,
        request: Request,
        first_id: int,
        arrivals_s: tuple[float, ...],
        order: Key,
        slo_s: float,
    ) -> None:
        self.request = request
        self.first_id = first_id
        self.arrivals_s = arrivals_s
        self.order = order
        self.slo_s = slo_s
        self.count = len(arrivals_s)
        self.rows = request.rows * self.count
        self.size_bytes = request.size_bytes * self.count
        self.attempts = 0
        self.avoid: str | None = None
        self.alone = request.like_key is None
        self.late = False
        self.batch_id: int | None = None

    @classmethod
    def of(cls, first: Request, sequence: int, slo_s: float, arrivals_s: tuple[float, ...]) -> Stay:
        """Give the stay of a request and those like it; it is the `sequence`-th to come."""
        due_s = first.arrival_s + slo_s
        if first.deadline_s is not None:
            due_s = min(due_s, first.deadline_s)
        rank = first.rank if first.priority else 1
        return cls(first, first.request_id, arrivals_s, (rank, due_s, sequence), slo_s)

    @property
    def request_ids(self) -> Sequence[int]:
        """Ids of its requests."""
        if self.count == 1:
            return (self.first_id,)
        return range(self.first_id, self.first_id + self.count)

    def count_late(self, now_s: float, slo_s: float) -> int:
        """How many of its requests came longer ago than `slo_s`: the first so many."""
        return bisect_left(self.arrivals_s, True, key=lambda arrival_s: now_s - arrival_s <= slo_s)

    def count_before(self, order: Key) -> int:
        """How many of its requests come before another's place."""
        if self._order_of(self.count - 1) < order:
            return self.count
        return bisect_left(range(self.count), order, key=self._order_of)

    def count_due_before(self, time_s: float) -> int:
        """How many of its requests are due before a time: the first so many."""
        if self.order[1] >= time_s:
            return 0
        return bisect_left(range(self.count), time_s, key=lambda index: self._order_of(index)[1])

    def give_way(self) -> None:
        """Go behind all others of the same rank, in the same order among those that do."""
        self.late = True
        self.order = (self.order[0] + LATE_RANK, *self.order[1:])

    def count_within(self, rows: int, size_bytes: int) -> int:
        """How many of its requests have no more than so many rows and bytes together."""
        if rows < 0 or size_bytes < 0:
            return 0
        count = self.count
        if self.rows > rows:
            count = rows // self.request.rows
        if self.request.size_bytes * count > size_bytes:
            count = size_bytes // self.request.size_bytes
        return count

    def cut(self, count: int) -> Stay:
        """Split off the first `count` requests, fewer than all."""
        head = self._part(0, count)
        self.order = self._order_of(count)
        self.arrivals_s = self.arrivals_s[count:]
        self.first_id += count
        self.count -= count
        self.rows -= head.rows
        self.size_bytes -= head.size_bytes
        return head

    def again(self, failed_node: str | None, alone: bool) -> list[Stay]:
        """Give the stays that follow a failed batch, at the same places in the order.

        A node that failed it counts as an attempt. Requests that are to be alone part.
        """
        size = 1 if alone else self.count
        parts = [self._part(begin, begin + size) for begin in range(0, self.count, size)]
        for part in parts:
            part.attempts += failed_node is not None
            part.avoid = failed_node or self.avoid
            part.alone = self.alone or alone
        return parts

    def _part(self, begin: int, end: int) -> Stay:
        part = Stay(
            self.request,
            self.first_id + begin,
            self.arrivals_s[begin:end],
            self._order_of(begin),
            self.slo_s,
        )
        part.attempts, part.avoid, part.alone = self.attempts, self.avoid, self.alone
        part.late = self.late
        return part

    def _order_of(self, index: int) -> Key:
        if index == 0:
            return self.order
        rank, _, sequence = self.order
        return rank, self.arrivals_s[index] + self.slo_s, sequence + index
