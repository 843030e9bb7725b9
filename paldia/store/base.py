"""The store's contract: revisioned bytes by key, atomic commits, watches and leases.

Every implementation passes `tests/contract/`. Keys are `/`-separated text, values bytes,
both with limits. A revision is a number that grows with each commit that changes
anything; an entry's revision is that of the commit which last wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paldia.core.errors import ConflictError, InvalidArgumentError, UnavailableError

KEY_LIMIT_BYTES = 512
VALUE_LIMIT_BYTES = 1 << 20
COMMIT_LIMIT_WRITES = 128
"""etcd's default limit on operations, and on conditions, in one transaction."""
COMMIT_LIMIT_BYTES = 5 << 18
"""All keys and values of a commit; below etcd's default of 1.5 MiB for a request."""
LEASE_LIMIT_S = 86_400.0


class StoreConflictError(ConflictError):
    """A commit's expectation did not hold; nothing was written."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"changed by somebody else: {', '.join(keys)}; read again and retry")
        self.keys = tuple(keys)


class LeaseExpiredError(ConflictError):
    """A commit's lease had expired; nothing was written."""


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


class LeaseKeeper(Protocol):
    """The side of a store that keeps leases."""

    async def renew(self, lease_id: int) -> bool:
        """Extend a lease; False if it had expired."""

    async def revoke(self, lease_id: int) -> None:
        """End a lease now and delete its keys."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Keys written under a lease vanish when it expires or is revoked.

    Attributes:
        keeper: the store that granted it; no other takes it.
        ttl_s: seconds it lives after each renewal.
    """

    keeper: LeaseKeeper = field(repr=False)
    lease_id: int
    ttl_s: float

    async def renew(self) -> bool:
        """Extend the lease; False if it had expired.

        Raises:
            StoreUnavailableError: no answer; the lease may have expired.
        """
        return await self.keeper.renew(self.lease_id)

    async def revoke(self) -> None:
        """End the lease now and delete its keys."""
        await self.keeper.revoke(self.lease_id)

    def id_for(self, keeper: LeaseKeeper, key: str) -> int:
        """Give the lease's number to the store that granted it, to write `key` under it.

        Raises:
            InvalidArgumentError: another store granted it.
        """
        if self.keeper is not keeper:
            raise InvalidArgumentError(f"the lease of {key} was granted by another store")
        return self.lease_id


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
            LeaseExpiredError: a write's lease had expired; nothing was written.
            InvalidArgumentError: a key, a value or the commit is over its limit, or a key
                is written twice.
            StoreUnavailableError: no answer in time.
        """

    def watch(self, prefix: str) -> AsyncGenerator[Resync | Change, None]:
        """Follow a prefix: a Resync first, then each change in order, without end.

        Close the iterator (`aclose`) or cancel its task to stop. Reconnects by itself;
        where changes may have been missed it sends another Resync.
        """

    async def grant_lease(self, ttl_s: float) -> Lease:
        """Start a lease of at least `ttl_s` seconds; stores may round up."""

    async def close(self) -> None:
        """Release connections and files. Watches end."""


def check_commit(writes: Sequence[Put | Delete], expect: Sequence[Expect]) -> None:
    """Check a commit against the limits that hold in every store.

    Raises:
        InvalidArgumentError: it is over one of them, or writes a key twice.
    """
    if max(len(writes), len(expect)) > COMMIT_LIMIT_WRITES:
        raise InvalidArgumentError(
            f"a commit of {len(writes)} writes on {len(expect)} conditions; "
            f"the limit is {COMMIT_LIMIT_WRITES} of each: split it"
        )
    keys = [write.key for write in writes]
    if len({*keys}) < len(keys):
        raise InvalidArgumentError("a commit writes the same key twice")
    for key in (*keys, *(condition.key for condition in expect)):
        if not 0 < len(key.encode()) <= KEY_LIMIT_BYTES:
            raise InvalidArgumentError(f"key {key[:80]!r} is not 1 to {KEY_LIMIT_BYTES} bytes long")
    size_bytes = sum(len(key.encode()) for key in keys)
    for write in writes:
        if isinstance(write, Put):
            size_bytes += len(write.value)
            if len(write.value) > VALUE_LIMIT_BYTES:
                raise InvalidArgumentError(
                    f"{write.key} has {len(write.value)} bytes; the limit is {VALUE_LIMIT_BYTES}"
                )
    if size_bytes > COMMIT_LIMIT_BYTES:
        raise InvalidArgumentError(
            f"a commit of {size_bytes} bytes; the limit is {COMMIT_LIMIT_BYTES}: split it"
        )


def check_ttl(ttl_s: float) -> None:
    """Check a lease's time to live, in seconds.

    Raises:
        InvalidArgumentError: it isn't above 0 and within a day.
    """
    if not 0 < ttl_s <= LEASE_LIMIT_S:
        raise InvalidArgumentError(
            f"a lease lives above 0 and up to {LEASE_LIMIT_S:g} s, not {ttl_s:g} s"
        )
