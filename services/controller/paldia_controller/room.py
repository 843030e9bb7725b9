"""What one commit of the store can still take beside what is in it already."""

from __future__ import annotations

from collections.abc import Sequence

from paldia.store.base import COMMIT_LIMIT_BYTES, COMMIT_LIMIT_WRITES, Delete, Put


class Room:
    """What still fits a commit."""

    def __init__(self, beside: Sequence[Put | Delete]) -> None:
        self.taken: list[Put | Delete] = []
        self._left_writes = COMMIT_LIMIT_WRITES - len(beside)
        self.left_bytes = COMMIT_LIMIT_BYTES - _size_bytes(beside)

    def add(self, writes: Sequence[Put | Delete]) -> bool:
        """Take writes that belong together, if there is room for all; say whether there was."""
        size_bytes = _size_bytes(writes)
        fits = len(writes) <= self._left_writes and size_bytes <= self.left_bytes
        if fits:
            self.taken += writes
            self._left_writes -= len(writes)
            self.left_bytes -= size_bytes
        return fits


def _size_bytes(writes: Sequence[Put | Delete]) -> int:
    return sum(
        len(write.key.encode()) + (len(write.value) if isinstance(write, Put) else 0)
        for write in writes
    )
