"""The order in which requests wait, and which of them may share a batch.

Order: priority (1 first, then 0, then 2 and up), then the earliest deadline, then arrival.
A batch is the first request in order and the next ones like it, in order, while they fit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable

from paldia.core.dispatch.requests import Key, Stay

_GONE_MOST = 64


class Load:
    """How much waits in a number of queues."""

    __slots__ = ("requests", "size_bytes")

    def __init__(self) -> None:
        self.requests = 0
        self.size_bytes = 0

    def add(self, requests: int, size_bytes: int) -> None:
        """Count in what begins to wait, or out, negative, what waits no longer."""
        self.requests += requests
        self.size_bytes += size_bytes


class LikeGroup:
    """Those in a queue that may share batches.

    Most come behind all that wait and leave from the head, so this is a list that grows at its
    end and whose beginning moves.

    Attributes:
        place: where the queue has put it among other groups; None if nobody waits.
        rows: of all that wait; `size_bytes` as well.
    """

    __slots__ = ("_begin", "_entries", "place", "rows", "size_bytes")

    def __init__(self) -> None:
        self.place: Key | None = None
        self.rows = 0
        self.size_bytes = 0
        self._entries: list[tuple[Key, Stay]] = []
        self._begin = 0

    def head(self) -> tuple[Key, Stay] | None:
        """Give what has the first request, and its place; None if nobody waits."""
        return self._entries[self._begin] if self._begin < len(self._entries) else None

    def __len__(self) -> int:
        return len(self._entries) - self._begin

    def waiting(self) -> list[tuple[Key, Stay]]:
        """Give all that wait, and their places, in order."""
        return self._entries[self._begin :]

    def since_s(self) -> float:
        """When the first of those who wait came, who need not be the first in order."""
        return min([stay.arrivals_s[0] for _, stay in self.waiting()])

    def due_s(self) -> float:
        """When the first answer is due to those who wait."""
        return min([order[1] for order, _ in self.waiting()])

    def push(self, stay: Stay) -> None:
        """Let a stay begin."""
        self.rows += stay.rows
        self.size_bytes += stay.size_bytes
        entries, order = self._entries, stay.order
        if not entries or entries[-1][0] < order:
            entries.append((order, stay))
        else:
            insort(entries, (order, stay), lo=self._begin)

    def remove(self, stay: Stay) -> None:
        """Take a stay out, wherever it stands."""
        at = bisect_left(self._entries, (stay.order,), lo=self._begin)
        if at == self._begin:
            self._begin += 1
        else:
            del self._entries[at]
        self._count_out(stay.rows, stay.size_bytes)

    def take_batch(self, rows_limit: int, bytes_limit: int) -> list[Stay]:
        """Remove the first request and the next ones, in order, while they fit.

        A request that is over a limit by itself is taken alone.
        """
        entries, at = self._entries, self._begin
        rows_left, bytes_left = rows_limit, bytes_limit
        batch: list[Stay] = []
        while at < len(entries):
            stay = entries[at][1]
            fits = stay.count
            if stay.rows > rows_left or stay.size_bytes > bytes_left:
                fits = stay.count_within(rows_left, bytes_left)
                if fits < 1 and batch:
                    break
                fits = max(1, fits)
            at += 1
            if stay.count > 1:
                stay, at = self._take_of_run(at, fits)
            batch.append(stay)
            rows_left -= stay.rows
            bytes_left -= stay.size_bytes
        self._begin = at
        self._count_out(rows_limit - rows_left, bytes_limit - bytes_left)
        return batch

    def _take_of_run(self, end: int, fits: int) -> tuple[Stay, int]:
        """Take what fits of the run before `end`, up to where the next stay begins.

        Returns:
            What was taken, and where those that still wait begin.
        """
        entries, run = self._entries, self._entries[end - 1][1]
        following = entries[end][0] if end < len(entries) else None
        if following is not None:
            fits = min(fits, run.count_before(following))
        if fits >= run.count:
            return run, end
        taken = run.cut(fits)
        if following is None or run.order < following:
            entries[end - 1] = (run.order, run)
            return taken, end - 1
        insort(entries, (run.order, run), lo=end)
        return taken, end

    def _count_out(self, rows: int, size_bytes: int) -> None:
        self.rows -= rows
        self.size_bytes -= size_bytes
        if self._begin == len(self._entries):
            self._entries.clear()
            self._begin = 0
        elif self._begin > _GONE_MOST and self._begin * 2 > len(self._entries):
            del self._entries[: self._begin]
            self._begin = 0


class RequestQueue:
    """Requests of one model that may go to the same lanes."""

    __slots__ = ("_alone", "_groups", "_heads", "_spare", "rows")

    def __init__(self) -> None:
        self.rows = 0
        # Of each group in which somebody waits: its place, its first, itself; in order.
        self._heads: list[tuple[Key, Stay, LikeGroup]] = []
        self._groups: dict[Hashable, LikeGroup] = {}
        self._alone = LikeGroup()
        # The group that was the last to become empty: most often it is wanted again at once.
        self._spare: LikeGroup | None = None

    def push(self, stay: Stay) -> None:
        """Let a stay begin."""
        if stay.alone:
            group = self._alone
        else:
            key = stay.request.like_key
            known = self._groups.get(key)
            if known is None:
                known = self._groups[key] = self._spare or LikeGroup()
                self._spare = None
            group = known
        self.rows += stay.rows
        group.push(stay)
        if group.place is None or stay.order < group.place:
            self._settle(group)

    def remove(self, stay: Stay) -> None:
        """Take a stay out, wherever in the order it stands."""
        group = self._alone if stay.alone else self._groups[stay.request.like_key]
        group.remove(stay)
        self._count_out(group, stay, stay.rows)

    def waiting(self) -> list[Stay]:
        """Give all that wait, in order."""
        entries = [entry for head in self._heads for entry in head[2].waiting()]
        return [stay for _, stay in sorted(entries)]

    def first(self) -> Stay | None:
        """Give what has the first request in order."""
        return self._heads[0][1] if self._heads else None

    @property
    def kinds(self) -> int:
        """How many wait that can't share a batch: so many batches it takes at least."""
        return len(self._groups) + len(self._alone)

    def has_like(self, like_key: Hashable) -> bool:
        """Whether a request waits that may share a batch with those of a key."""
        return like_key is not None and like_key in self._groups

    def rows_like(self, stay: Stay) -> int:
        """Rows that could share a batch with a queued request, its own included."""
        return stay.request.rows if stay.alone else self._groups[stay.request.like_key].rows

    def gathering(self, rows_limit: int, bytes_limit: int) -> LikeGroup | None:
        """Give those who wait if all are alike, and more may join them within these limits."""
        group = self._heads[0][2]
        if group is self._alone or group.rows != self.rows:
            return None
        if group.rows >= rows_limit or group.size_bytes >= bytes_limit:
            return None
        return group

    def take_batch(self, first: Stay, rows_limit: int, bytes_limit: int) -> list[Stay]:
        """Remove the first request of `first` and those like it, in order, while they fit."""
        if first.alone:
            self.remove(first)
            return [first]
        group = self._groups[first.request.like_key]
        rows = group.rows
        batch = group.take_batch(rows_limit, bytes_limit)
        self._count_out(group, first, rows - group.rows)
        return batch

    def _count_out(self, group: LikeGroup, stay: Stay, rows: int) -> None:
        """Count out what has left of a group, in which `stay` was."""
        self.rows -= rows
        self._settle(group)
        if group.place is None and not stay.alone:
            del self._groups[stay.request.like_key]
            self._spare = group

    def _settle(self, group: LikeGroup) -> None:
        """Put a group where its first now belongs."""
        heads, head, before = self._heads, group.head(), group.place
        if before is not None:
            if head is not None and head[0] is before:
                return
            del heads[bisect_left(heads, (before,))]
        if head is None:
            group.place = None
        else:
            group.place = head[0]
            insort(heads, (*head, group))
