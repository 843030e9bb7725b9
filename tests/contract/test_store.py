"""What every store does; see paldia/store/base.py."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paldia.core.errors import InvalidArgumentError
from paldia.store.base import (
    COMMIT_LIMIT_BYTES,
    COMMIT_LIMIT_WRITES,
    KEY_LIMIT_BYTES,
    VALUE_LIMIT_BYTES,
    Change,
    Delete,
    Entry,
    Expect,
    LeaseExpiredError,
    Listing,
    Put,
    Resync,
    StoreConflictError,
    StoreUnavailableError,
)
from paldia.store.embedded import EmbeddedStore

DEADLINE_S = 20.0


async def take(watch, count=1):
    """Give the next `count` events of a watch."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(watch) for _ in range(count)]


def keys_of(listing):
    return [entry.key for entry in listing.entries]


class TestReading:
    async def test_an_absent_key_reads_as_none(self, store):
        assert await store.get("a") is None
        assert (await store.list("")).entries == ()

    async def test_a_written_entry_reads_back_with_its_commit(self, store):
        revision = await store.commit([Put("a", b"\x00\xff")])
        assert await store.get("a") == Entry("a", b"\x00\xff", revision)
        assert await store.list("") == Listing((Entry("a", b"\x00\xff", revision),), revision)

    async def test_an_empty_value_is_not_an_absent_key(self, store):
        revision = await store.commit([Put("a", b"")])
        assert await store.get("a") == Entry("a", b"", revision)

    async def test_entries_keep_the_revision_of_their_own_last_write(self, store):
        first = await store.commit([Put("a", b"1"), Put("b", b"1")])
        second = await store.commit([Put("b", b"2")])
        listing = await store.list("")
        assert [entry.revision for entry in listing.entries] == [first, second]
        assert listing.revision == second

    async def test_a_listing_is_in_key_order(self, store):
        keys = ["b", "a/b", "a", "ab", "a/a", "a-", "z\u00e9", "z\U0001f600", "z\uffff", "B"]
        await store.commit([Put(key, b"") for key in keys])
        assert keys_of(await store.list("")) == sorted(keys)

    @pytest.mark.parametrize(
        ("prefix", "found"),
        [
            ("", ["a", "a/", "a/x", "a0", "ab", "b", "\u00e9/x", "\U0010ffff/x"]),
            ("a", ["a", "a/", "a/x", "a0", "ab"]),
            ("a/", ["a/", "a/x"]),
            ("a/x", ["a/x"]),
            ("a/xy", []),
            ("c", []),
            ("\u00e9", ["\u00e9/x"]),
            ("\U0010ffff", ["\U0010ffff/x"]),
        ],
    )
    async def test_a_prefix_selects_the_keys_that_start_with_it(self, store, prefix, found):
        keys = ["a", "a/", "a/x", "a0", "ab", "b", "\u00e9/x", "\U0010ffff/x"]
        await store.commit([Put(key, b"") for key in keys])
        assert keys_of(await store.list(prefix)) == found

    async def test_a_long_listing_is_complete(self, store):
        keys = [f"k/{n:04}" for n in range(3 * COMMIT_LIMIT_WRITES)]
        for n in range(0, len(keys), COMMIT_LIMIT_WRITES):
            part = keys[n : n + COMMIT_LIMIT_WRITES]
            await store.commit([Put(key, key.encode()) for key in part])
        listing = await store.list("k/")
        assert [(it.key, it.value) for it in listing.entries] == [(k, k.encode()) for k in keys]

    async def test_a_long_listing_is_of_one_moment(self, store):
        for n in range(3):
            await store.commit([Put(f"k/{n}{m:03}", b"") for m in range(COMMIT_LIMIT_WRITES)])

        async def write():
            for n in itertools.count():
                await store.commit([Put("k/", b"%d" % n), Put("k/z", b"%d" % n)])

        await store.commit([Put("k/", b""), Put("k/z", b"")])
        writer = asyncio.create_task(write())
        for _ in range(10):
            listing = await store.list("k/")
            first, last = listing.entries[0], listing.entries[-1]
            assert (first.key, last.key) == ("k/", "k/z")
            assert first.value == last.value
            assert first.revision == last.revision <= listing.revision
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    async def test_a_listing_of_megabytes_is_complete(self, store):
        for n in range(6):
            await store.commit([Put(f"{n}", b"%d" % n * VALUE_LIMIT_BYTES)])
        listing = await store.list("")
        assert [it.value[:1] for it in listing.entries] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert {len(it.value) for it in listing.entries} == {VALUE_LIMIT_BYTES}


class TestCommit:
    async def test_the_revision_grows_with_each_change(self, store):
        revisions = [await store.commit([Put("a", b"%d" % n)]) for n in range(5)]
        revisions.append(await store.commit([Delete("a")]))
        assert revisions == sorted({*revisions})

    async def test_what_changes_nothing_keeps_the_revision(self, store):
        revision = await store.commit([Put("a", b"")])
        assert await store.commit([Delete("absent")]) == revision
        assert await store.commit([]) == revision
        assert await store.commit([], [Expect("a", revision)]) == revision

    async def test_it_creates_only_where_absence_is_expected(self, store):
        await store.commit([Put("a", b"1")], [Expect("a", 0)])
        with pytest.raises(StoreConflictError) as caught:
            await store.commit([Put("a", b"2")], [Expect("a", 0)])
        assert caught.value.keys == ("a",)
        assert (await store.get("a")).value == b"1"

    async def test_it_updates_only_the_revision_expected(self, store):
        first = await store.commit([Put("a", b"1")])
        second = await store.commit([Put("a", b"2")], [Expect("a", first)])
        with pytest.raises(StoreConflictError):
            await store.commit([Put("a", b"3")], [Expect("a", first)])
        await store.commit([Delete("a")], [Expect("a", second)])
        with pytest.raises(StoreConflictError):
            await store.commit([Put("a", b"3")], [Expect("a", second)])
        await store.commit([Put("a", b"4")], [Expect("a", 0)])
        assert (await store.get("a")).value == b"4"

    async def test_the_conflict_names_the_keys_that_changed(self, store):
        revision = await store.commit([Put("a", b""), Put("b", b""), Put("c", b"")])
        await store.commit([Put("b", b"x"), Delete("c")])
        with pytest.raises(StoreConflictError, match="b, c, d") as caught:
            await store.commit(
                [Put("e", b"")], [*(Expect(key, revision) for key in "abcd"), Expect("e", 0)]
            )
        assert caught.value.keys == ("b", "c", "d")

    async def test_a_conflict_writes_nothing_of_the_commit(self, store):
        revision = await store.commit([Put("a", b"1"), Put("b", b"1")])
        before = await store.list("")
        with pytest.raises(StoreConflictError):
            await store.commit(
                [Put("a", b"2"), Delete("b"), Put("c", b"2")],
                [Expect("a", revision), Expect("c", revision)],
            )
        assert await store.list("") == before

    async def test_all_writes_of_a_commit_share_its_revision(self, store):
        await store.commit([Put("b", b"")])
        revision = await store.commit([Put("a", b""), Delete("b"), Put("c", b"")])
        listing = await store.list("")
        assert [(it.key, it.revision) for it in listing.entries] == [
            ("a", revision),
            ("c", revision),
        ]

    async def test_a_key_written_twice_is_refused(self, store):
        with pytest.raises(InvalidArgumentError, match="twice"):
            await store.commit([Put("a", b"1"), Delete("a")])
        assert await store.get("a") is None

    async def test_the_largest_commits_are_taken(self, store):
        key = "k" * KEY_LIMIT_BYTES
        await store.commit([Put(key, b"v" * VALUE_LIMIT_BYTES)])
        assert len((await store.get(key)).value) == VALUE_LIMIT_BYTES
        keys = [f"{n:03}".ljust(KEY_LIMIT_BYTES, "x") for n in range(COMMIT_LIMIT_WRITES)]
        value = b"v" * (COMMIT_LIMIT_BYTES // COMMIT_LIMIT_WRITES - KEY_LIMIT_BYTES)
        writes = [Put(key, value) for key in keys]
        revision = await store.commit(writes, [Expect(key, 0) for key in keys])
        await store.commit(writes, [Expect(key, revision) for key in keys])
        with pytest.raises(StoreConflictError) as caught:
            await store.commit(writes, [Expect(key, revision) for key in keys])
        assert caught.value.keys == tuple(keys)

    @pytest.mark.parametrize(
        ("writes", "expect", "told"),
        [
            ([Put("", b"")], [], "key"),
            ([Put("k" * (KEY_LIMIT_BYTES + 1), b"")], [], "bytes long"),
            ([Put("\u00e9" * (KEY_LIMIT_BYTES // 2 + 1), b"")], [], "bytes long"),
            ([], [Expect("", 0)], "bytes long"),
            ([Put("a", b"v" * (VALUE_LIMIT_BYTES + 1))], [], f"limit is {VALUE_LIMIT_BYTES}"),
            ([Put(k, b"v" * (COMMIT_LIMIT_BYTES // 2)) for k in "ab"], [], "split it"),
            ([Delete(f"{n}") for n in range(COMMIT_LIMIT_WRITES + 1)], [], "split it"),
            ([], [Expect(f"{n}", 0) for n in range(COMMIT_LIMIT_WRITES + 1)], "split it"),
        ],
    )
    async def test_what_is_over_a_limit_is_refused(self, store, writes, expect, told):
        with pytest.raises(InvalidArgumentError, match=told):
            await store.commit(writes, expect)
        assert (await store.list("")).entries == ()

    async def test_concurrent_increments_lose_nothing(self, store):
        workers, rounds = 8, 8

        async def increment():
            while True:
                entry = await store.get("n")
                value, revision = (int(entry.value), entry.revision) if entry else (0, 0)
                try:
                    await store.commit([Put("n", b"%d" % (value + 1))], [Expect("n", revision)])
                    return
                except StoreConflictError:
                    continue

        async def work():
            for _ in range(rounds):
                await increment()

        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(work())
        assert int((await store.get("n")).value) == workers * rounds


class TestWatch:
    async def test_it_begins_with_all_there_is(self, store):
        await store.commit([Put("a/1", b"1"), Put("b/1", b"1")])
        watch = store.watch("a/")
        assert await take(watch) == [Resync(await store.list("a/"))]
        await watch.aclose()

    async def test_it_begins_empty_where_nothing_is(self, store):
        watch = store.watch("a/")
        [first] = await take(watch)
        assert isinstance(first, Resync)
        assert first.listing.entries == ()
        await watch.aclose()

    async def test_changes_follow_in_order_with_their_revisions(self, store):
        watch = store.watch("a/")
        await take(watch)
        first = await store.commit([Put("a/2", b"1"), Put("a/1", b"1")])
        second = await store.commit([Put("a/1", b"2")])
        third = await store.commit([Delete("a/2"), Put("a/3", b"")])
        assert await take(watch, 5) == [
            Change("a/2", b"1", first),
            Change("a/1", b"1", first),
            Change("a/1", b"2", second),
            Change("a/2", None, third),
            Change("a/3", b"", third),
        ]
        await watch.aclose()

    async def test_it_tells_neither_other_prefixes_nor_what_did_not_happen(self, store):
        watch = store.watch("a/")
        await take(watch)
        await store.commit([Put("ab", b""), Put("a", b"")])
        await store.commit([Delete("a/absent")])
        with pytest.raises(StoreConflictError):
            await store.commit([Put("a/no", b"")], [Expect("a/no", 1)])
        revision = await store.commit([Put("b", b""), Put("a/yes", b"")])
        assert await take(watch) == [Change("a/yes", b"", revision)]
        await watch.aclose()

    async def test_nothing_falls_between_listing_and_changes(self, store):
        async def write():
            for n in itertools.count(1):
                await store.commit([Put("n", b"%d" % n)])

        async def follow():
            watch = store.watch("n")
            [first] = await take(watch)
            values = [int(entry.value) for entry in first.listing.entries] or [0]
            values += [int(change.value) for change in await take(watch, 5)]
            await watch.aclose()
            assert values == [*range(values[0], values[0] + 6)]

        writer = asyncio.create_task(write())
        for _ in range(5):
            await asyncio.gather(*(follow() for _ in range(3)))
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    async def test_commits_made_while_it_starts_are_told_once(self, store):
        keys = [f"{n}" for n in range(20)]
        watch = store.watch("")
        [[first], *_] = await asyncio.gather(
            take(watch), *(store.commit([Put(key, b"")]) for key in keys)
        )
        told = keys_of(first.listing)
        told += [it.key for it in await take(watch, len(keys) - len(told))]
        assert sorted(told) == sorted(keys)
        await watch.aclose()

    async def test_every_watcher_hears_everything(self, store):
        watches = [store.watch("") for _ in range(4)]
        for watch in watches:
            await take(watch)
        revision = await store.commit([Put("a", b"1"), Put("b", b"1")])
        told = [Change("a", b"1", revision), Change("b", b"1", revision)]
        assert [await take(watch, 2) for watch in watches] == [told] * 4
        await watches[0].aclose()
        revision = await store.commit([Delete("a")])
        assert [await take(it) for it in watches[1:]] == [[Change("a", None, revision)]] * 3
        for watch in watches[1:]:
            await watch.aclose()

    async def test_a_slow_watcher_ends_up_with_the_truth(self, store):
        watch = store.watch("k/")
        [first] = await take(watch)
        await store.commit([Put("k/gone", b"")])
        for n in range(20):
            await store.commit([Put(f"k/{key}", b"%d" % n) for key in range(100)])
        last = await store.commit([Delete("k/gone"), Put("k/end", b"")])
        known, revision = {}, first.listing.revision
        while revision < last or "k/end" not in known:
            [event] = await take(watch)
            if isinstance(event, Resync):
                known = {it.key: it.value for it in event.listing.entries}
                assert event.listing.revision >= revision
                revision = event.listing.revision
                continue
            assert event.revision >= revision
            revision = event.revision
            if event.value is None:
                known.pop(event.key)
            else:
                known[event.key] = event.value
        assert known == {it.key: it.value for it in (await store.list("k/")).entries}
        await watch.aclose()

    async def test_cancelling_its_task_ends_it(self, store):
        reached = asyncio.Event()

        async def follow():
            async for _ in store.watch(""):
                reached.set()

        task = asyncio.create_task(follow())
        async with asyncio.timeout(DEADLINE_S):
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await store.commit([Put("a", b"")])

    async def test_closing_the_store_ends_it(self, store):
        watches = [store.watch("a"), store.watch("b")]
        for watch in watches:
            await take(watch)
        waiting = [asyncio.create_task(take(watch)) for watch in watches]
        await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(DEADLINE_S):
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [StopAsyncIteration] * 2


class TestClose:
    async def test_a_closed_store_says_so(self, store):
        lease = await store.grant_lease(60)
        await store.close()
        await store.close()
        for call in (
            store.get("a"),
            store.list(""),
            store.commit([Put("a", b"")]),
            store.grant_lease(60),
            lease.renew(),
        ):
            with pytest.raises(StoreUnavailableError, match="closed"):
                await call
        assert [event async for event in store.watch("")] == []

    async def test_calls_under_way_get_an_answer(self, store):
        calls = [asyncio.create_task(store.commit([Put(f"{n}", b"")])) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(it, int | StoreUnavailableError) for it in answers)


class TestLease:
    async def test_keys_vanish_unless_it_is_renewed(self, store):
        kept, lost = await asyncio.gather(store.grant_lease(2), store.grant_lease(3))
        assert (kept.ttl_s, lost.ttl_s) == (2, 3)
        await store.commit([Put("kept", b"", kept), Put("lost", b"", lost), Put("free", b"")])
        watch = store.watch("")
        await take(watch)

        async def renew():
            while True:
                assert await kept.renew()
                await asyncio.sleep(0.2)

        renewing = asyncio.create_task(renew())
        [change] = await take(watch)
        assert (change.key, change.value) == ("lost", None)
        assert keys_of(await store.list("")) == ["free", "kept"]
        assert not renewing.done()
        renewing.cancel()
        assert not await lost.renew()
        with pytest.raises(LeaseExpiredError, match="expired"):
            await store.commit([Put("late", b"", lost), Put("free", b"changed")])
        assert (await store.get("free")).value == b""
        await watch.aclose()

    async def test_revoking_it_deletes_its_keys_at_once(self, store):
        lease = await store.grant_lease(60)
        await store.commit([Put("a", b"", lease), Put("b", b"", lease), Put("c", b"")])
        watch = store.watch("")
        await take(watch)
        await lease.revoke()
        assert keys_of(await store.list("")) == ["c"]
        told = await take(watch, 2)
        assert [(it.key, it.value) for it in told] == [("a", None), ("b", None)]
        assert not await lease.renew()
        await lease.revoke()
        await watch.aclose()

    async def test_a_key_belongs_to_the_lease_of_its_last_write(self, store):
        first, second = await store.grant_lease(60), await store.grant_lease(60)
        await store.commit([Put(key, b"", first) for key in "abc"])
        await store.commit([Put("a", b""), Put("b", b"", second)])
        await first.revoke()
        assert keys_of(await store.list("")) == ["a", "b"]
        await second.revoke()
        assert keys_of(await store.list("")) == ["a"]

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 1e9])
    async def test_an_absurd_time_to_live_is_refused(self, store, ttl_s):
        with pytest.raises(InvalidArgumentError, match="lease"):
            await store.grant_lease(ttl_s)

    async def test_another_stores_lease_is_refused(self, store, tmp_path):
        other = EmbeddedStore(tmp_path / "other.db")
        lease = await other.grant_lease(60)
        with pytest.raises(InvalidArgumentError, match="another store"):
            await store.commit([Put("a", b"", lease)])
        await other.close()


KEYS = st.sampled_from(["a", "a/b", "b"])
WRITES = st.dictionaries(KEYS, st.none() | st.binary(max_size=3), min_size=1)
EXPECTATIONS = st.dictionaries(KEYS, st.sampled_from(["right", "absent", "stale"]), max_size=2)
runs = itertools.count()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commits=st.lists(st.tuples(WRITES, EXPECTATIONS), max_size=8))
async def test_it_behaves_as_a_dictionary_with_a_log(store, commits):
    prefix = f"{next(runs)}/"
    watch = store.watch(prefix)
    await take(watch)
    known, log = {}, []
    for writes, expectations in commits:
        expect, holds = [], True
        for key, kind in expectations.items():
            actual = known[key].revision if key in known else 0
            revision = {"right": actual, "absent": 0, "stale": actual + 1}[kind]
            holds &= revision == actual
            expect.append(Expect(prefix + key, revision))
        operations = [
            Delete(prefix + key) if value is None else Put(prefix + key, value)
            for key, value in writes.items()
        ]
        if not holds:
            with pytest.raises(StoreConflictError):
                await store.commit(operations, expect)
            continue
        revision = await store.commit(operations, expect)
        for key, value in writes.items():
            if value is not None:
                known[key] = Entry(prefix + key, value, revision)
            elif known.pop(key, None) is None:
                continue
            log.append(Change(prefix + key, value, revision))
    assert (await store.list(prefix)).entries == tuple(known[key] for key in sorted(known))
    assert await take(watch, len(log)) == log
    await watch.aclose()
