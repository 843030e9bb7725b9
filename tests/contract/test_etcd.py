"""What only the etcd store meets: a server that goes away, hangs, forgets."""

from __future__ import annotations

import asyncio
import sys
import uuid

import pytest

from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.store.base import Change, Delete, Put, Resync, StoreUnavailableError
from paldia.store.etcd import EtcdStore

DEADLINE_S = 30.0


def open_store(*members, timeout_s=5.0, prefix="/test/"):
    return EtcdStore([it.endpoint for it in members], prefix=prefix, timeout_s=timeout_s)


async def next_of(watch):
    async with asyncio.timeout(DEADLINE_S):
        return await anext(watch)


async def commit_again(store, writes):
    """Commit as callers do: again until the store is there."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await store.commit(writes)
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


async def until_known(watch, wanted):
    """Follow a watch until what it told amounts to `wanted`; give the events."""
    events, known = [], {}
    while known != wanted:
        event = await next_of(watch)
        events.append(event)
        if isinstance(event, Resync):
            known = {it.key: it.value for it in event.listing.entries}
        elif event.value is None:
            known.pop(event.key)
        else:
            known[event.key] = event.value
    return events


async def compact(store, revision):
    await store._cluster.call(
        lambda it, left_s: it.kv.Compact(
            store._api.CompactionRequest(revision=revision, physical=True), timeout=left_s
        )
    )


@pytest.fixture
def member(start_etcd):
    """Give an etcd of the test's own."""
    [member] = start_etcd()
    yield member
    member.kill()


class TestWithoutServer:
    async def test_a_dead_endpoint_is_named(self, member):
        member.kill()
        store = open_store(member)
        with pytest.raises(StoreUnavailableError, match=rf"{member.endpoint} .*--etcd-endpoints"):
            await store.get("a")
        await store.close()

    @pytest.mark.parametrize(
        "endpoints", [[], "127.0.0.1:2379", ["127.0.0.1"], ["http://127.0.0.1:2379"], ["h:port"]]
    )
    def test_malformed_endpoints_are_refused(self, endpoints):
        with pytest.raises(InvalidArgumentError, match="--etcd-endpoints HOST:PORT"):
            EtcdStore(endpoints)

    def test_without_the_extra_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "etcd3aio", None)
        monkeypatch.delitem(sys.modules, "etcd3aio._protobuf", raising=False)
        with pytest.raises(UnavailableError, match=r"install paldia\[etcd\]"):
            EtcdStore(["127.0.0.1:2379"])


async def test_a_server_that_hangs_is_given_up(member):
    store = open_store(member, timeout_s=0.3)
    lease = await store.grant_lease(60)
    await store.commit([Put("a", b"1")])
    member.freeze()
    for call in (store.get("a"), store.commit([Put("a", b"2")]), lease.renew(), lease.revoke()):
        with pytest.raises(StoreUnavailableError, match="DEADLINE_EXCEEDED"):
            await call
    member.thaw()
    await commit_again(store, [Put("b", b"")])
    await store.close()


class TestWatch:
    async def test_a_restarted_server_costs_it_nothing(self, member):
        store = open_store(member)
        await store.commit([Put("before", b"")])
        watch = store.watch("")
        await next_of(watch)
        following = asyncio.create_task(
            until_known(watch, {"before": b"2", "during": b"", "after": b""})
        )
        member.kill()
        with pytest.raises(StoreUnavailableError):
            await store.commit([Put("before", b"lost")])
        await asyncio.to_thread(member.start)
        await commit_again(store, [Put("before", b"2"), Put("during", b""), Put("gone", b"")])
        await commit_again(store, [Put("after", b""), Delete("gone")])
        events = await following
        assert isinstance(events[0], Resync)
        await watch.aclose()
        await store.close()

    async def test_compacted_history_is_replaced_by_all_there_is(self, member):
        store = open_store(member)
        watch = store.watch("")
        await next_of(watch)
        # etcd hears of the watch with the next event asked for; by then its start is gone.
        await store.commit([Put("a", b"1")])
        await store.commit([Put("a", b"2")])
        await compact(store, await store.commit([Delete("a"), Put("b", b"")]))
        assert await next_of(watch) == Resync(await store.list(""))
        revision = await store.commit([Put("c", b"")])
        assert await next_of(watch) == Change("c", b"", revision)
        await watch.aclose()
        await store.close()

    async def test_a_server_that_lost_its_data_is_noticed(self, member):
        store = open_store(member)
        for n in range(5):
            await store.commit([Put("a", b"%d" % n)])
        watch = store.watch("")
        await next_of(watch)
        following = asyncio.create_task(until_known(watch, {"b": b""}))
        await asyncio.sleep(0)
        member.kill()
        member.wipe()
        await asyncio.to_thread(member.start)
        await commit_again(store, [Put("b", b"")])
        await following
        await watch.aclose()
        await store.close()

    async def test_a_server_rewound_after_the_listing_is_noticed(self, member):
        store = open_store(member)
        for n in range(5):
            await store.commit([Put("a", b"%d" % n)])
        watch = store.watch("")
        await next_of(watch)
        member.kill()
        member.wipe()
        await asyncio.to_thread(member.start)
        await commit_again(store, [Put("b", b"")])
        events = await until_known(watch, {"b": b""})
        assert isinstance(events[0], Resync)
        await watch.aclose()
        await store.close()

    async def test_cancelling_it_ends_its_stream(self, etcd):
        store = open_store(etcd, prefix=f"/{uuid.uuid4()}/")
        watch = store.watch("")
        await next_of(watch)
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(DEADLINE_S):
            await watch.aclose()
            await store.close()


async def test_prefixes_keep_stores_apart(etcd):
    here, there = (open_store(etcd, prefix=f"/{uuid.uuid4()}/") for _ in range(2))
    watch = here.watch("")
    await next_of(watch)
    await there.commit([Put("a", b"theirs")])
    revision = await here.commit([Put("a", b"ours")])
    assert await next_of(watch) == Change("a", b"ours", revision)
    assert (await there.get("a")).value == b"theirs"
    await watch.aclose()
    await here.close()
    await there.close()


async def test_two_clients_see_one_truth(etcd):
    prefix = f"/{uuid.uuid4()}/"
    writer, reader = open_store(etcd, prefix=prefix), open_store(etcd, prefix=prefix)
    watch = reader.watch("")
    await next_of(watch)
    revision = await writer.commit([Put("a", b"1")])
    assert await next_of(watch) == Change("a", b"1", revision)
    assert await reader.get("a") == await writer.get("a")
    await watch.aclose()
    await writer.close()
    await reader.close()


async def test_it_outlives_any_one_member_of_three(start_etcd):
    members = await asyncio.to_thread(start_etcd, 3)
    store = open_store(*members, timeout_s=1.0)
    lease = await store.grant_lease(60)
    watch = store.watch("")
    await next_of(watch)
    for n, member in enumerate(members):
        member.kill()
        await commit_again(store, [Put("n", b"%d" % n)])
        await until_known(watch, {"n": b"%d" % n})
        assert await lease.renew()
        await asyncio.to_thread(member.start)
    await watch.aclose()
    await store.close()
    for member in members:
        member.kill()
