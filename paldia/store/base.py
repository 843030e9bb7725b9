"""The store's contract: revisioned bytes by key, atomic commits, watches and leases.

Every implementation passes `tests/contract/`. Keys are `/`-separated text, values bytes
of at most `VALUE_LIMIT_BYTES`. A revision is a number that grows with each commit; an
entry's revision is that of the commit which last wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from paldia.core.errors import ConflictError, UnavailableError

VALUE_LIMIT_BYTES = 1 << 20
COMMIT_LIMIT_WRITES = 128
"""etcd's default limit on operations in one transaction."""


class StoreConflictError(ConflictError):
    """A commit's expectation did not hold; nothing was written."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"changed by somebody else: {', '.join(keys)}; read again and retry")
        self.keys = tuple(keys)


class StoreUnavailableError(UnavailableError):
    """The store didn't answer in time; the commit may or may not have happened."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value with the revision of the commit that wrote it."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries under a prefix, by key, as of one revision."""

    entries: tuple[Entry, ...]
    revision: int


class Lease(Protocol):
    """Keys written under a lease vanish when it expires or is revoked."""

    @property
    def ttl_s(self) -> float:
        """Seconds the lease lives after each renewal."""

    async def renew(self) -> bool:
        """Extend the lease; False if it had expired.

        Raises:
            StoreUnavailableError: no answer; the lease may have expired.
        """

    async def revoke(self) -> None:
        """End the lease now and delete its keys."""


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; under a lease, if given, that the same store granted."""

    key: str
    value: bytes
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key; no error if it is absent."""

    key: str


@dataclass(frozen=True, slots=True)
class Expect:
    """Condition of a commit: the key's entry has this revision; 0 for absent."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Resync:
    """A watch's first event, and again whenever history was lost: all there is."""

    listing: Listing


@dataclass(frozen=True, slots=True)
class Change:
    """A key was written, or deleted (`value` is None)."""

    key: str
    value: bytes | None
    revision: int


class Store(Protocol):
    """A small, strongly consistent key-value store."""

    @property
    def kind(self) -> str:
        """`embedded` or `etcd`."""

    async def get(self, key: str) -> Entry | None:
        """Read one entry, None if absent."""

    async def list(self, prefix: str) -> Listing:
        """Read all entries whose key starts with `prefix`."""

    async def commit(self, writes: Sequence[Put | Delete], expect: Sequence[Expect] = ()) -> int:
        """Apply all writes in one transaction if all expectations hold.

        Returns:
            The store's revision after the commit.

        Raises:
            StoreConflictError: an expectation failed; nothing was written.
            InvalidArgumentError: a value or the commit is over its limit, or a key is
                written twice.
            StoreUnavailableError: no answer in time.
        """

    def watch(self, prefix: str) -> AsyncIterator[Resync | Change]:
        """Follow a prefix: a Resync first, then each change in order, without end.

        Close the iterator (`aclose`) or cancel its task to stop. Reconnects by itself;
        where changes may have been missed it sends another Resync.
        """

    async def grant_lease(self, ttl_s: float) -> Lease:
        """Start a lease."""

    async def close(self) -> None:
        """Release connections and files. Watches end."""
