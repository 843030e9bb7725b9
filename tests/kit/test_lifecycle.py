"""From the first signal to the exit code, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from paldia.kit.lifecycle import announce_ready, sleep_unless, wait_any

DEADLINE_S = 20.0

PRELUDE = """
import asyncio, sys
from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.kit import lifecycle
"""
GRACEFUL = """
async def serve(stop):
    print("ready", flush=True)
    await stop.wait()
    print("closed", flush=True)
"""
STUCK = """
async def serve(stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await asyncio.Event().wait()
"""
FAILING = """
async def serve(stop):
    raise UnavailableError("the port is taken")
"""
FAILING_TASKS = """
async def fail(error):
    raise error

async def serve(stop):
    async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
        inner.create_task(fail(InvalidArgumentError("no such flag")))
"""
BUG = """
async def serve(stop):
    raise KeyError("bug")
"""
BUG_BESIDE_A_FAILURE = """
async def fail(error):
    raise error

async def serve(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(fail(UnavailableError("gone")))
        group.create_task(fail(KeyError("bug")))
"""


async def start(tmp_path, serve):
    script = tmp_path / "service"
    script.write_text(f"{PRELUDE}{serve}\nsys.exit(lifecycle.run(serve))\n")
    return await asyncio.create_subprocess_exec(sys.executable, script, stdout=PIPE, stderr=PIPE)


async def end_of(process):
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
class TestSignals:
    async def test_the_first_closes_everything(self, tmp_path, signum):
        process = await start(tmp_path, GRACEFUL)
        assert await process.stdout.readline() == b"ready\n"
        process.send_signal(signum)
        assert await end_of(process) == (0, "closed\n", "")

    async def test_the_second_exits_at_once(self, tmp_path, signum):
        process = await start(tmp_path, STUCK)
        assert await process.stdout.readline() == b"ready\n"
        process.send_signal(signum)
        assert await process.stdout.readline() == b"stopping\n"
        process.send_signal(signum)
        assert await end_of(process) == (130, "", "")


class TestErrors:
    @pytest.mark.parametrize(
        ("serve", "told"), [(FAILING, "the port is taken"), (FAILING_TASKS, "no such flag")]
    )
    async def test_one_meant_for_the_user_is_one_line(self, tmp_path, serve, told):
        process = await start(tmp_path, serve)
        assert await end_of(process) == (1, "", f"service: {told}\n")

    @pytest.mark.parametrize("serve", [BUG, BUG_BESIDE_A_FAILURE])
    async def test_a_bug_keeps_its_traceback(self, tmp_path, serve):
        code, _, err = await end_of(await start(tmp_path, serve))
        assert code == 1
        assert "Traceback" in err
        assert "KeyError: 'bug'" in err


class TestReady:
    def test_it_is_published_whole(self, tmp_path):
        path = tmp_path / "ready.json"
        announce_ready(path, {"grpc": "127.0.0.1:8100"})
        announce_ready(path, {"grpc": "127.0.0.1:8101"})
        assert json.loads(path.read_text()) == {"pid": os.getpid(), "grpc": "127.0.0.1:8101"}
        assert [*tmp_path.iterdir()] == [path]

    def test_without_a_file_it_is_not(self):
        announce_ready(None, {})


class TestWaiting:
    async def test_sleep_ends_with_the_time(self):
        assert not await sleep_unless(asyncio.Event(), 0.001)

    async def test_sleep_ends_with_the_event(self):
        event = asyncio.Event()
        async with asyncio.timeout(DEADLINE_S):
            sleep = asyncio.create_task(sleep_unless(event, 3600))
            await asyncio.sleep(0)
            event.set()
            assert await sleep
            assert await sleep_unless(event, 3600)

    async def test_any_one_of_several_ends_the_wait(self):
        first, second = asyncio.Event(), asyncio.Event()
        async with asyncio.timeout(DEADLINE_S):
            waiting = asyncio.create_task(wait_any([first.wait(), second.wait()], 3600))
            await asyncio.sleep(0)
            second.set()
            await waiting
        await wait_any([first.wait()], 0.001)
