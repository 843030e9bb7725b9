"""Measuring that gives way to what is served."""

import asyncio
import contextlib
import itertools
import time

import pytest
from paldia_nodeagent import quiet
from paldia_nodeagent.quiet import Quiet

from paldia.core.errors import NotServableError, UnavailableError


class Node:
    """Models that compute for `share` of the time."""

    def __init__(self, share: float = 0.0) -> None:
        self._since_s, self._computed_s, self.share = time.monotonic(), 0.0, share

    def serve(self, share: float) -> None:
        self._computed_s, self._since_s = self._so_far_s(), time.monotonic()
        self.share = share

    def _so_far_s(self) -> float:
        return self._computed_s + self.share * (time.monotonic() - self._since_s)

    async def busy_s(self) -> float:
        return self._so_far_s()


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "LOOK_S", 0.01)


async def test_work_is_done_on_a_node_that_serves_nobody() -> None:
    gate = Quiet(Node().busy_s, patience_s=0.0, insists=False, on_wait=lambda _: None)

    async def work() -> int:
        await asyncio.sleep(0.03)
        return 7

    assert await gate.undisturbed(work) == 7


async def test_work_that_traffic_comes_upon_is_stopped_and_begun_anew() -> None:
    node, begun, stopped, waits = Node(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    heard: list[bool] = []
    tries = itertools.count(1)

    def hear(begins: bool) -> None:
        heard.append(begins)
        waits.set()

    gate = Quiet(node.busy_s, patience_s=60.0, insists=False, on_wait=hear)

    async def work() -> int:
        this = next(tries)
        begun.set()
        with contextlib.ExitStack() as stack:
            stack.callback(stopped.set)
            if this == 1:
                await asyncio.Event().wait()
        return this

    doing = asyncio.create_task(gate.undisturbed(work))
    async with asyncio.timeout(10):
        await begun.wait()
        assert not stopped.is_set()
        node.serve(0.5)
        await stopped.wait()
        await waits.wait()
        node.serve(0.0)
        assert await doing == 2
    assert heard == [True, False]


async def test_patience_with_traffic_ends() -> None:
    gate = Quiet(Node(0.5).busy_s, patience_s=0.1, insists=False, on_wait=lambda _: None)

    async def work() -> None:
        raise AssertionError("it would slow what is served")

    with pytest.raises(UnavailableError, match="serves requests"):
        await gate.undisturbed(work)


async def test_what_must_be_done_is_done_once_patience_is_over() -> None:
    node = Node(0.5)
    gate = Quiet(node.busy_s, patience_s=0.1, insists=True, on_wait=lambda _: None)

    async def work() -> float:
        await asyncio.sleep(0.05)
        return node.share

    assert await gate.undisturbed(work) == 0.5
    # None is left for the next piece.
    assert await gate.undisturbed(work) == 0.5


async def test_a_little_use_is_no_traffic() -> None:
    gate = Quiet(Node(0.02).busy_s, patience_s=0.0, insists=False, on_wait=lambda _: None)

    async def work() -> int:
        return 1

    assert await gate.undisturbed(work) == 1


async def test_failures_of_the_work_are_told_and_cancelling_ends_it() -> None:
    gate = Quiet(Node().busy_s, patience_s=0.0, insists=False, on_wait=lambda _: None)

    async def fail() -> None:
        raise NotServableError("odd input")

    with pytest.raises(NotServableError, match="odd input"):
        await gate.undisturbed(fail)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    doing = asyncio.create_task(gate.undisturbed(endless))
    async with asyncio.timeout(10):
        await begun.wait()
        doing.cancel()
        await ended.wait()


async def test_a_node_that_is_silent_only_between_tries_is_given_up() -> None:
    node = Node()
    gate = Quiet(node.busy_s, patience_s=0.05, insists=False, on_wait=lambda _: None)

    async def work() -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(node.serve, 0.0)
            node.serve(1.0)
            await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="serves requests"):
            await gate.undisturbed(work)
