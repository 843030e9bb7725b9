"""The store on etcd, for controllers on several machines.

Of the package etcd3aio this uses etcd's messages and stubs and makes the calls itself:
its client repeats commits whose answer was lost, resumes a watch past events that it
hasn't delivered, and takes no host names. Here a commit is tried once, and a watch that
breaks starts over with all there is, so that no history is needed: not across
compaction, and not after an etcd that lost its data.

Run etcd with `--auto-compaction-retention`; nothing here compacts.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any

import grpc
import structlog

from paldia.core.errors import UnavailableError
from paldia.store.base import (
    Change,
    Delete,
    Entry,
    Expect,
    Lease,
    LeaseExpiredError,
    Listing,
    Put,
    Resync,
    StoreConflictError,
    StoreUnavailableError,
    check_commit,
    check_ttl,
)
from paldia.store.cluster import Cluster, Member

_PAGE_ENTRIES = 128
_MESSAGE_LIMIT_BYTES = 160 << 20
"""A page of the largest entries, with room."""
_RETRY_FIRST_S, _RETRY_MOST_S = 0.3, 3.0


class EtcdStore:
    """A store under a prefix of an etcd cluster's keys."""

    def __init__(
        self, endpoints: Sequence[str], *, prefix: str = "/paldia/", timeout_s: float = 5.0
    ) -> None:
        """Prepare calls to `endpoints`, each `HOST:PORT`; nothing is connected yet.

        Raises:
            InvalidArgumentError: there is no endpoint, or one is malformed.
            UnavailableError: the package etcd3aio is missing.
        """
        self._api = _load_api()
        self._prefix = prefix.encode()
        self._cluster = Cluster(
            self._api, endpoints, timeout_s=timeout_s, message_limit_bytes=_MESSAGE_LIMIT_BYTES
        )

    @property
    def kind(self) -> str:
        """`etcd`."""
        return "etcd"

    async def get(self, key: str) -> Entry | None:
        """Read one entry, None if absent."""
        request = self._api.RangeRequest(key=self._key(key))
        found = await self._cluster.call(lambda it, left_s: it.kv.Range(request, timeout=left_s))
        return self._entry(found.kvs[0]) if found.kvs else None

    async def list(self, prefix: str) -> Listing:
        """Read all entries whose key starts with `prefix`."""
        first, end = self._range(prefix)
        entries: list[Entry] = []
        revision = 0
        while True:
            page = await self._page(first, end, revision)
            revision = revision or page.header.revision
            entries += map(self._entry, page.kvs)
            if not page.more:
                return Listing(tuple(entries), revision)
            first = page.kvs[-1].key + b"\0"

    async def _page(self, first: bytes, end: bytes, revision: int) -> Any:
        request = self._api.RangeRequest(
            key=first, range_end=end, limit=_PAGE_ENTRIES, revision=revision
        )
        return await self._cluster.call(lambda it, left_s: it.kv.Range(request, timeout=left_s))

    async def commit(self, writes: Sequence[Put | Delete], expect: Sequence[Expect] = ()) -> int:
        """Apply all writes in one transaction if all expectations hold; see `Store.commit`."""
        check_commit(writes, expect)
        api = self._api
        request = api.TxnRequest(
            compare=[
                api.Compare(
                    key=self._key(condition.key),
                    target=api.Compare.MOD,
                    result=api.Compare.EQUAL,
                    mod_revision=condition.revision,
                )
                for condition in expect
            ],
            success=[self._operation(write) for write in writes],
            failure=[
                api.RequestOp(
                    request_range=api.RangeRequest(key=self._key(condition.key), keys_only=True)
                )
                for condition in expect
            ],
        )
        # Once: a repeated commit would conflict with itself if only the answer was lost.
        done = await self._cluster.call(
            lambda it, left_s: it.kv.Txn(request, timeout=left_s), once=True
        )
        if not done.succeeded:
            raise StoreConflictError(_changed(expect, done.responses))
        return int(done.header.revision)

    def _operation(self, write: Put | Delete) -> Any:
        api, key = self._api, self._key(write.key)
        if isinstance(write, Delete):
            return api.RequestOp(request_delete_range=api.DeleteRangeRequest(key=key))
        if write.lease is None:
            return api.RequestOp(request_put=api.PutRequest(key=key, value=write.value))
        lease_id = write.lease.id_for(self, write.key)
        return api.RequestOp(request_put=api.PutRequest(key=key, value=write.value, lease=lease_id))

    async def watch(self, prefix: str) -> AsyncGenerator[Resync | Change, None]:
        """Follow a prefix: a Resync, then each change; a Resync again after a break."""
        delay_s = _RETRY_FIRST_S
        while not self._cluster.closed.is_set():
            try:
                listing = await self.list(prefix)
            except StoreUnavailableError as error:
                _log_break(prefix, str(error))
            else:
                delay_s = _RETRY_FIRST_S
                yield Resync(listing)
                async with aclosing(self._follow(prefix, listing.revision)) as changes:
                    async for change in changes:
                        yield change
            with suppress(TimeoutError):
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
                await asyncio.wait_for(self._cluster.closed.wait(), delay_s * jitter)
            delay_s = min(delay_s * 2, _RETRY_MOST_S)

    async def _follow(self, prefix: str, revision: int) -> AsyncGenerator[Change, None]:
        """Give the changes after `revision`; return when they might no longer be complete."""
        member = self._cluster.member
        first, end = self._range(prefix)
        create = self._api.WatchCreateRequest(key=first, range_end=end, start_revision=revision + 1)
        stream = member.watch.Watch(
            _hold_open(self._api.WatchRequest(create_request=create)),
            # So that a member cut off from the others says so, rather than nothing.
            metadata=(("hasleader", "true"),),
        )
        try:
            while (response := await stream.read()) is not grpc.aio.EOF:
                # A server that lost its data would stay silent until it is back at `revision`.
                rewound = response.created and response.header.revision < revision
                if response.canceled or response.compact_revision or rewound:
                    _log_break(prefix, response.cancel_reason or "etcd's history was lost")
                    return
                for event in response.events:
                    yield self._change(event)
        except grpc.aio.AioRpcError as error:
            _log_break(prefix, f"{member.endpoint}: {error.code().name}: {error.details()}")
            self._cluster.leave(member)
        except asyncio.CancelledError:
            if not self._cluster.ended_by_close():
                raise
        finally:
            stream.cancel()

    async def grant_lease(self, ttl_s: float) -> Lease:
        """Start a lease of whole seconds, `ttl_s` or a little more."""
        check_ttl(ttl_s)
        request = self._api.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        lease = await self._cluster.call(
            lambda it, left_s: it.lease.LeaseGrant(request, timeout=left_s)
        )
        return Lease(self, lease.ID, float(lease.TTL))

    async def renew(self, lease_id: int) -> bool:
        """Extend a lease; False if it had expired."""
        request = self._api.LeaseKeepAliveRequest(ID=lease_id)

        async def keep_alive(member: Member, left_s: float) -> Any:
            stream = member.lease.LeaseKeepAlive(_hold_open(request), timeout=left_s)
            try:
                return await stream.read()
            finally:
                stream.cancel()

        response = await self._cluster.call(keep_alive)
        if response is grpc.aio.EOF:
            raise StoreUnavailableError("etcd ended the renewal of a lease without an answer")
        return bool(response.TTL > 0)

    async def revoke(self, lease_id: int) -> None:
        """End a lease now and delete its keys."""
        request = self._api.LeaseRevokeRequest(ID=lease_id)
        with suppress(LeaseExpiredError):
            await self._cluster.call(
                lambda it, left_s: it.lease.LeaseRevoke(request, timeout=left_s)
            )

    async def close(self) -> None:
        """Close all connections and end all watches."""
        await self._cluster.close()

    def _key(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _range(self, prefix: str) -> tuple[bytes, bytes]:
        """Give the first key of a prefix and one above all of them: UTF-8 never holds 0xFF."""
        first = self._key(prefix)
        return first, first + b"\xff"

    def _entry(self, pair: Any) -> Entry:
        return Entry(pair.key[len(self._prefix) :].decode(), pair.value, pair.mod_revision)

    def _change(self, event: Any) -> Change:
        entry = self._entry(event.kv)
        deleted = event.type == event.DELETE
        return Change(entry.key, None if deleted else entry.value, entry.revision)


def _load_api() -> Any:
    """Give etcd's messages and stubs; only now, so that the package is needed only here."""
    try:
        return importlib.import_module("etcd3aio._protobuf")
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "the etcd store needs the package etcd3aio: install paldia[etcd], "
            "or use --store embedded"
        ) from error


async def _hold_open(request: Any) -> AsyncIterator[Any]:
    """Send one request and leave the stream open."""
    yield request
    await asyncio.Event().wait()


def _changed(expect: Sequence[Expect], responses: Any) -> Sequence[str]:
    """Name the keys that were not as expected, from what they were."""
    found = [
        it.response_range.kvs[0].mod_revision if it.response_range.kvs else 0 for it in responses
    ]
    return [it.key for it, revision in zip(expect, found, strict=True) if it.revision != revision]


def _log_break(prefix: str, reason: str) -> None:
    structlog.get_logger().warning("store.watch_broken", prefix=prefix, reason=reason)
