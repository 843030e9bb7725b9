"""The store on one machine: SQLite behind one thread, watches within the process.

The event loop never waits for the disk. One worker thread runs all SQL in order, and
hands what changed to the loop before it answers, so every watcher sees every commit, in
commit order.
"""

from __future__ import annotations

import asyncio
import collections
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from paldia.store.base import (
    Change,
    Delete,
    Entry,
    Expect,
    Lease,
    Listing,
    Put,
    Resync,
    StoreUnavailableError,
    check_commit,
    check_ttl,
)
from paldia.store.database import Database, EntryPut

WATCH_LIMIT_CHANGES = 1024
"""Changes that wait for a slow watcher; one more and it gets a Resync instead."""

_EXPIRY_LEAST_S = 0.05

Result = TypeVar("Result")


class EmbeddedStore:
    """A store in a file that this process alone has open."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            UnavailableError: it can't be opened, is in use, damaged, not ours or newer.
        """
        self._path = path
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="paldia-store")
        try:
            self._database = self._worker.submit(Database, path).result()
        except BaseException:
            self._worker.shutdown()
            raise
        self._watchers: set[_Watcher] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def kind(self) -> str:
        """`embedded`."""
        return "embedded"

    async def get(self, key: str) -> Entry | None:
        """Read one entry, None if absent."""
        return await self._work(lambda: self._database.get(key))

    async def list(self, prefix: str) -> Listing:
        """Read all entries whose key starts with `prefix`."""
        return await self._work(lambda: self._database.list(prefix))

    async def commit(self, writes: Sequence[Put | Delete], expect: Sequence[Expect] = ()) -> int:
        """Apply all writes in one transaction if all expectations hold; see `Store.commit`."""
        check_commit(writes, expect)
        entries = [self._entry(write) if isinstance(write, Put) else write for write in writes]
        return await self._work(lambda: self._database.commit(entries, expect))

    def _entry(self, put: Put) -> EntryPut:
        lease_id = put.lease.id_for(self, put.key) if put.lease else None
        return EntryPut(put.key, put.value, lease_id)

    async def watch(self, prefix: str) -> AsyncGenerator[Resync | Change, None]:
        """Follow a prefix: a Resync, then each change; a Resync again after falling behind."""
        while not self._closed:
            # It listens before the listing is made, so that nothing falls in between.
            watcher = _Watcher(prefix)
            self._watchers.add(watcher)
            try:
                listing = await self.list(prefix)
                yield Resync(listing)
                while (change := await watcher.take()) is not None:
                    if change.revision > listing.revision:
                        yield change
            finally:
                self._watchers.discard(watcher)

    async def grant_lease(self, ttl_s: float) -> Lease:
        """Start a lease of `ttl_s` seconds; it ends with this process at the latest."""
        check_ttl(ttl_s)
        lease_id = await self._work(lambda: self._database.grant(ttl_s))
        return Lease(self, lease_id, ttl_s)

    async def renew(self, lease_id: int) -> bool:
        """Extend a lease; False if it had expired."""
        return await self._work(lambda: self._database.renew(lease_id))

    async def revoke(self, lease_id: int) -> None:
        """End a lease now and delete its keys."""
        await self._work(lambda: self._database.revoke(lease_id))

    async def close(self) -> None:
        """Finish what was asked for, release the file and end all watches."""
        if self._closed:
            return
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        for watcher in self._watchers:
            watcher.cut()
        await asyncio.wrap_future(self._worker.submit(self._database.close))
        self._worker.shutdown(wait=False)

    async def _work(self, operation: Callable[[], Result]) -> Result:
        """Run an operation on the database in its thread."""
        if self._closed:
            raise StoreUnavailableError(f"the store {self._path} is closed")
        return await asyncio.wrap_future(self._submit(operation))

    def _submit(self, operation: Callable[[], Result]) -> Future[Result]:
        loop = asyncio.get_running_loop()

        def work() -> Result:
            try:
                self._database.expire()
                return operation()
            except sqlite3.Error as error:
                raise StoreUnavailableError(f"the store {self._path} failed: {error}") from error
            finally:
                loop.call_soon_threadsafe(
                    self._publish, self._database.take_changes(), self._database.next_expiry_s()
                )

        return self._worker.submit(work)

    def _publish(self, changes: Sequence[Change], next_expiry_s: float | None) -> None:
        """Tell the watchers, and wake when the next lease expires even if nobody asks."""
        if self._closed:
            return
        if changes:
            for watcher in self._watchers:
                watcher.offer(changes)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if next_expiry_s is not None:
            wait_s = max(_EXPIRY_LEAST_S, next_expiry_s - time.monotonic())
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(wait_s, lambda: self._submit(lambda: None))


class _Watcher:
    """Changes on their way to one consumer, until it falls too far behind or is cut off."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waiting: collections.deque[Change] = collections.deque()
        self._cut = False
        self._news = asyncio.Event()

    def offer(self, changes: Sequence[Change]) -> None:
        """Queue the changes under the prefix; give up the queue if it grows too long."""
        if self._cut:
            return
        self._waiting.extend(it for it in changes if it.key.startswith(self._prefix))
        if len(self._waiting) > WATCH_LIMIT_CHANGES:
            self._waiting.clear()
            self._cut = True
        self._news.set()

    def cut(self) -> None:
        """Let the consumer have what waits, and then nothing."""
        self._cut = True
        self._news.set()

    async def take(self) -> Change | None:
        """Wait for the next change; None if there will be none."""
        while not self._waiting and not self._cut:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft() if self._waiting else None
