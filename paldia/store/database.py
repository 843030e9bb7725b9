"""The embedded store's file: SQLite, one process at a time, every commit on the disk.

Synchronous and for one thread. Leases live in memory alone: whoever holds one lives in
this process, so when the file is opened all leases of earlier processes are orphans and
their keys go.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paldia.core.errors import UnavailableError
from paldia.store.base import (
    Change,
    Delete,
    Entry,
    Expect,
    LeaseExpiredError,
    Listing,
    StoreConflictError,
)

_APPLICATION_ID = 0x50414C44  # "PALD"
_SCHEMA_VERSION = 1
# Keys are UTF-8 bytes, which never hold 0xFF: `prefix || 0xFF` is above all keys under it.
_SCHEMA = f"""
BEGIN;
CREATE TABLE entry (
    key BLOB PRIMARY KEY NOT NULL,
    value BLOB NOT NULL,
    revision INTEGER NOT NULL,
    lease INTEGER
);
CREATE INDEX entry_by_lease ON entry (lease) WHERE lease IS NOT NULL;
CREATE TABLE state (revision INTEGER NOT NULL);
INSERT INTO state VALUES (0);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""  # noqa: S608 - our own numbers


@dataclass(slots=True)
class _Term:
    """How long a lease lives, on the monotonic clock."""

    ttl_s: float
    expires_s: float


@dataclass(frozen=True, slots=True)
class EntryPut:
    """A value to write, under the lease of that number if any."""

    key: str
    value: bytes
    lease_id: int | None


class Database:
    """The tables, and the leases of this process."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            UnavailableError: it can't be opened, is in use, damaged, not ours or newer.
        """
        self._sql = _open(path)
        (revision,) = self._sql.execute("SELECT revision FROM state").fetchone()
        self._revision: int = revision
        self._terms: dict[int, _Term] = {}
        self._lease_ids = itertools.count(1)
        self._changes: list[Change] = []
        self._delete_leased("lease IS NOT NULL")
        self._changes.clear()

    def get(self, key: str) -> Entry | None:
        """Read one entry."""
        row = self._sql.execute(
            "SELECT value, revision FROM entry WHERE key = ?", (key.encode(),)
        ).fetchone()
        return Entry(key, *row) if row else None

    def list(self, prefix: str) -> Listing:
        """Read all entries under a prefix, by key."""
        first = prefix.encode()
        rows = self._sql.execute(
            "SELECT key, value, revision FROM entry WHERE key >= ? AND key < ? ORDER BY key",
            (first, first + b"\xff"),
        )
        entries = tuple(Entry(key.decode(), value, revision) for key, value, revision in rows)
        return Listing(entries, self._revision)

    def commit(self, writes: Sequence[EntryPut | Delete], expect: Sequence[Expect]) -> int:
        """Apply all writes if all expectations hold; give the revision.

        Raises:
            StoreConflictError: an expectation failed.
            LeaseExpiredError: a lease had expired.
        """
        for write in writes:
            if isinstance(write, EntryPut) and write.lease_id is not None:
                self._check_lease(write)
        changed = [it.key for it in expect if self._revision_of(it.key) != it.revision]
        if changed:
            raise StoreConflictError(changed)
        return self._apply(writes)

    def _check_lease(self, write: EntryPut) -> None:
        if write.lease_id not in self._terms:
            raise LeaseExpiredError(f"the lease to write {write.key} under has expired")

    def _revision_of(self, key: str) -> int:
        entry = self.get(key)
        return entry.revision if entry else 0

    def _apply(self, writes: Iterable[EntryPut | Delete]) -> int:
        writes = [it for it in writes if isinstance(it, EntryPut) or self._revision_of(it.key)]
        if not writes:
            return self._revision
        revision = self._revision + 1
        with self._sql:
            self._sql.execute("UPDATE state SET revision = ?", (revision,))
            for write in writes:
                if isinstance(write, EntryPut):
                    self._sql.execute(
                        "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)",
                        (write.key.encode(), write.value, revision, write.lease_id),
                    )
                else:
                    self._sql.execute("DELETE FROM entry WHERE key = ?", (write.key.encode(),))
        self._revision = revision
        self._changes += (
            Change(it.key, it.value if isinstance(it, EntryPut) else None, revision)
            for it in writes
        )
        return revision

    def grant(self, ttl_s: float) -> int:
        """Start a lease; give its number."""
        lease_id = next(self._lease_ids)
        self._terms[lease_id] = _Term(ttl_s, time.monotonic() + ttl_s)
        return lease_id

    def renew(self, lease_id: int) -> bool:
        """Extend a lease; False if it had expired."""
        term = self._terms.get(lease_id)
        if term is None:
            return False
        term.expires_s = time.monotonic() + term.ttl_s
        return True

    def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys."""
        self._delete_leased("lease = ?", lease_id)
        self._terms.pop(lease_id, None)

    def expire(self) -> None:
        """End the leases whose time is up; call it before every other operation."""
        now_s = time.monotonic()
        for lease_id in [it for it, term in self._terms.items() if term.expires_s <= now_s]:
            self.revoke(lease_id)

    def next_expiry_s(self) -> float | None:
        """When the next lease expires, on the monotonic clock."""
        return min((term.expires_s for term in self._terms.values()), default=None)

    def _delete_leased(self, condition: str, *values: int) -> None:
        rows = self._sql.execute(
            f"SELECT key FROM entry WHERE {condition} ORDER BY key",  # noqa: S608 - our own text
            values,
        )
        self._apply([Delete(key.decode()) for (key,) in rows.fetchall()])

    def take_changes(self) -> Sequence[Change]:
        """Give what changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def close(self) -> None:
        """Release the file."""
        self._sql.close()


def _open(path: Path) -> sqlite3.Connection:
    """Open a file of this schema, and hold it alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sql = sqlite3.connect(path, timeout=0)
    except (OSError, sqlite3.Error) as error:
        raise UnavailableError(f"can't open the store {path}: {error}") from error
    try:
        _prepare(sql, path)
    except sqlite3.Error as error:
        sql.close()
        raise UnavailableError(_reason(path, error)) from error
    except UnavailableError:
        sql.close()
        raise
    return sql


def _prepare(sql: sqlite3.Connection, path: Path) -> None:
    # Exclusive from the first access on, so that the lock is held until the file is closed.
    sql.execute("PRAGMA locking_mode = EXCLUSIVE")
    sql.execute("PRAGMA journal_mode = WAL")
    sql.execute("PRAGMA synchronous = FULL")
    (application_id,) = sql.execute("PRAGMA application_id").fetchone()
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    (tables,) = sql.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        sql.executescript(_SCHEMA)
    elif application_id != _APPLICATION_ID:
        raise UnavailableError(f"{path} is some other program's database; choose another file")
    elif version != _SCHEMA_VERSION:
        raise UnavailableError(
            f"{path} has format {version}, this PALDIA reads format {_SCHEMA_VERSION}; "
            "run the version that wrote it, or move the file away to start empty"
        )
    (verdict,) = sql.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict.splitlines()[-1])


def _reason(path: Path, error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return (
            f"{path} is in use by another process; stop that controller, "
            "or give this one another --data-dir"
        )
    if isinstance(error, sqlite3.OperationalError):
        return f"can't open the store {path}: {error}"
    return (
        f"{path} is damaged ({error}); put a copy back in its place, or move it away to start empty"
    )
