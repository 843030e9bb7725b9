"""What only the embedded store does: its file, and its bounded queues."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from paldia.core.errors import UnavailableError
from paldia.store import embedded
from paldia.store.base import Change, Put, Resync, StoreUnavailableError
from paldia.store.embedded import EmbeddedStore

DEADLINE_S = 20.0

WRITER = """
import asyncio, pathlib, sys
from paldia.store.base import Put
from paldia.store.embedded import EmbeddedStore

async def main():
    store = EmbeddedStore(pathlib.Path(sys.argv[1]))
    lease = await store.grant_lease(3600)
    await store.commit([Put("leased", b"", lease)])
    n = 0
    while True:
        n += 1
        value = b"%d" % n
        await store.commit([Put(f"all/{n:06}", value), Put("left", value), Put("right", value)])
        print(n, flush=True)

asyncio.run(main())
"""

OPENER = """
import pathlib, sys
from paldia.store.embedded import EmbeddedStore
EmbeddedStore(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


async def test_every_acknowledged_commit_survives_kill_9(path):
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, path, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    while int(await writer.stdout.readline()) < 100:
        pass
    writer.kill()
    acknowledged = [100, *map(int, (await writer.stdout.read()).split())][-1]
    assert await writer.wait() == -signal.SIGKILL

    store = EmbeddedStore(path)
    values = [int(entry.value) for entry in (await store.list("all/")).entries]
    assert values == [*range(1, len(values) + 1)]
    assert len(values) >= acknowledged
    assert int((await store.get("left")).value) == len(values)
    assert int((await store.get("right")).value) == len(values)
    assert await store.get("leased") is None
    await store.close()


async def test_a_commit_is_synced_before_it_is_acknowledged(path):
    store = EmbeddedStore(path)
    database = store._database
    pragma = await store._work(
        lambda: [
            database._sql.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous")
        ]
    )
    assert pragma == ["wal", 2]
    await store.close()


async def test_it_goes_on_where_it_ended(path):
    store = EmbeddedStore(path)
    lease = await store.grant_lease(3600)
    await store.commit([Put("a", b"1")])
    last = await store.commit([Put("leased", b"", lease)])
    kept = await store.get("a")
    await store.close()

    store = EmbeddedStore(path)
    listing = await store.list("")
    assert listing.entries == (kept,)
    assert listing.revision > last
    assert await store.commit([Put("b", b"")]) > listing.revision
    await store.close()


class TestOpening:
    async def test_a_second_process_is_told_to_stop_the_first(self, path):
        store = EmbeddedStore(path)
        await store.commit([Put("a", b"1")])
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPENER, path, stderr=subprocess.PIPE
        )
        _, told = await second.communicate()
        assert second.returncode == 1
        assert f"UnavailableError: {path} is in use by another process; stop" in told.decode()
        with pytest.raises(UnavailableError, match="in use"):
            EmbeddedStore(path)
        await store.commit([Put("a", b"2")])
        await store.close()
        await EmbeddedStore(path).close()

    async def test_the_folder_is_made(self, tmp_path):
        store = EmbeddedStore(tmp_path / "deep" / "down" / "state.db")
        await store.commit([Put("a", b"")])
        await store.close()

    def test_an_impossible_path_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file" / "state.db", tmp_path):
            with pytest.raises(UnavailableError, match=f"can't open the store {path}"):
                EmbeddedStore(path)

    @pytest.mark.parametrize("damage", [b"no database at all" * 100, None])
    async def test_a_damaged_file_is_named_and_left_alone(self, path, damage):
        store = EmbeddedStore(path)
        for n in range(50):
            await store.commit([Put(f"k/{n}", os.urandom(2000))])
        await store.close()
        content = bytearray(path.read_bytes())
        if damage:
            content = damage
        else:
            content[8192:16384] = os.urandom(8192)
        path.write_bytes(content)
        with pytest.raises(UnavailableError, match=rf"{path} is damaged .* move it away"):
            EmbeddedStore(path)
        assert path.read_bytes() == content

    async def test_a_newer_format_is_not_touched(self, path):
        await EmbeddedStore(path).close()
        with sqlite3.connect(path) as sql:
            sql.execute("PRAGMA user_version = 2")
        sql.close()
        with pytest.raises(UnavailableError, match=r"has format 2, .* reads format 1; run"):
            EmbeddedStore(path)

    def test_another_programs_database_is_not_touched(self, path):
        with sqlite3.connect(path) as sql:
            sql.execute("CREATE TABLE theirs (x)")
        sql.close()
        with pytest.raises(UnavailableError, match="some other program's"):
            EmbeddedStore(path)

    async def test_a_failed_opening_leaves_nothing_open(self, path):
        path.write_bytes(b"no database at all" * 100)
        with pytest.raises(UnavailableError):
            EmbeddedStore(path)
        path.unlink()
        await EmbeddedStore(path).close()


async def test_a_failing_disk_is_reported_and_writes_nothing(path):
    store = EmbeddedStore(path)
    await store.commit([Put("a", b"1")])
    await store._work(lambda: store._database._sql.execute("PRAGMA max_page_count = 10"))
    with pytest.raises(StoreUnavailableError, match="full"):
        await store.commit([Put("a", b"2"), Put("b", b"x" * 200_000)])
    assert [(it.key, it.value) for it in (await store.list("")).entries] == [("a", b"1")]
    await store.commit([Put("a", b"3")])
    await store.close()


async def test_a_lease_expires_though_nobody_asks(path):
    store = EmbeddedStore(path)
    watch = store.watch("")
    await anext(watch)
    lease = await store.grant_lease(0.1)
    await store.commit([Put("a", b"", lease)])
    async with asyncio.timeout(DEADLINE_S):
        assert (await anext(watch)).value == b""
        assert (await anext(watch)).value is None
    await watch.aclose()
    await store.close()


class TestWatch:
    async def test_one_that_falls_behind_starts_over(self, path, monkeypatch):
        monkeypatch.setattr(embedded, "WATCH_LIMIT_CHANGES", 3)
        store = EmbeddedStore(path)
        behind, ahead = store.watch(""), store.watch("")
        for watch in (behind, ahead):
            assert isinstance(await anext(watch), Resync)
        for n in range(3):
            await store.commit([Put("a", b"%d" % n)])
            assert (await anext(ahead)).value == b"%d" % n
        last = await store.commit([Put("b", b"")])
        assert await anext(behind) == Resync(await store.list(""))
        assert await anext(ahead) == Change("b", b"", last)
        revision = await store.commit([Put("c", b"")])
        assert await anext(behind) == Change("c", b"", revision)
        await behind.aclose()
        await ahead.aclose()
        await store.close()

    async def test_the_limit_itself_is_kept_in_full(self, path, monkeypatch):
        monkeypatch.setattr(embedded, "WATCH_LIMIT_CHANGES", 3)
        store = EmbeddedStore(path)
        watch = store.watch("")
        await anext(watch)
        for n in range(3):
            await store.commit([Put("a", b"%d" % n)])
        assert [(await anext(watch)).value for _ in range(3)] == [b"0", b"1", b"2"]
        await watch.aclose()
        await store.close()

    async def test_a_commit_right_after_the_listing_is_told(self, path):
        store = EmbeddedStore(path)
        watch = store.watch("")
        listing = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        commit = asyncio.create_task(store.commit([Put("a", b"")]))
        await asyncio.sleep(0)
        # The loop stands still until both are done in the store's thread.
        store._worker.submit(int).result()
        assert (await listing).listing.entries == ()
        async with asyncio.timeout(DEADLINE_S):
            assert await anext(watch) == Change("a", b"", await commit)
        await watch.aclose()
        await store.close()

    async def test_a_cancelled_commit_is_told_if_it_happened(self, path):
        store = EmbeddedStore(path)
        watch = store.watch("")
        await anext(watch)
        for n in range(20):
            commit = asyncio.create_task(store.commit([Put(f"{n}", b"")]))
            await asyncio.sleep(0)
            commit.cancel()
            await asyncio.gather(commit, return_exceptions=True)
        await store.commit([Put("end", b"")])
        told = []
        async with asyncio.timeout(DEADLINE_S):
            while "end" not in told:
                told.append((await anext(watch)).key)
        assert sorted(told) == [it.key for it in (await store.list("")).entries]
        await watch.aclose()
        await store.close()

    async def test_it_leaves_nothing_behind(self, path):
        store = EmbeddedStore(path)
        for _ in range(3):
            watch = store.watch("")
            await anext(watch)
            await watch.aclose()
        assert not store._watchers
        await store.close()


async def test_the_loop_goes_on_while_the_disk_is_slow(path):
    store = EmbeddedStore(path)
    turn = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_the_loop():
        loop.call_soon_threadsafe(turn.set)
        return asyncio.run_coroutine_threadsafe(turn.wait(), loop).result(DEADLINE_S)

    assert await store._work(wait_for_the_loop)
    await store.close()
