"""Requests from one worker to another: frames, calls, cancelling, loss, streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_frontend.exchange import frames
from paldia_frontend.exchange.frames import Ask, Frame, Kind, Reader
from paldia_frontend.exchange.inbox import Inbox
from paldia_frontend.exchange.peers import ANSWERS_AHEAD, PeerLostError, Peers

from paldia.core.errors import InternalError, NotFoundError, OverloadedError, PaldiaError

UNREAD_BYTES = 64 << 20
LIMIT_S = 10.0


@given(
    st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2**32 - 1), st.binary())),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_frames_come_out_as_they_went_in(
    sent: list[tuple[Kind, int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(b"".join(frames.frame(*one)) for one in sent)
    reader, came = Reader(), []
    turn = 0
    while data:
        size = cuts[turn % len(cuts)]
        came += reader.read(data[:size])
        data, turn = data[size:], turn + 1
    assert came == [Frame(*one) for one in sent]


@given(st.text(max_size=20), st.none() | st.floats(0, 1e9), st.binary())
def test_what_is_asked_can_be_read(model: str, deadline_s: float | None, message: bytes) -> None:
    asked = Ask(model, deadline_s, message)
    (one,) = Reader().read(b"".join(frames.ask(Kind.ASK, 1, asked)))
    assert frames.asked_by(one.body) == asked


@pytest.mark.parametrize("error", [NotFoundError("no such"), OverloadedError("full", 2.5)])
def test_errors_come_out_as_they_went_in(error: PaldiaError) -> None:
    (one,) = Reader().read(b"".join(frames.failed(1, error)))
    came = frames.failure(one.body)
    assert (type(came), str(came)) == (type(error), str(error))
    if isinstance(error, OverloadedError):
        assert came.retry_after_s == error.retry_after_s


def test_what_is_no_frame_is_told() -> None:
    with pytest.raises(InternalError):
        list(Reader().read(b"\0\0\0\0\xff\0\0\0\0"))
    for read in (frames.asked_by, frames.count_of):
        with pytest.raises(InternalError):
            read(b"\1")


@dataclass
class Echo:
    """Answers with what it is asked; waits, fails or goes on as the model's name says."""

    running: set[bytes] = field(default_factory=set)
    sent: int = 0

    async def answer(self, asked: Ask) -> bytes:
        self.running.add(asked.message)
        try:
            if asked.model == "waits":
                await asyncio.Event().wait()
            if asked.model == "full":
                raise OverloadedError("full", 3.0)
            if asked.model == "broken":
                raise RuntimeError("a secret")
            return asked.message
        finally:
            self.running.discard(asked.message)

    async def answers(self, asked: Ask) -> AsyncGenerator[bytes, None]:
        self.running.add(asked.message)
        try:
            for _ in range(int(asked.model)):
                self.sent += 1
                yield asked.message
            if asked.message == b"fails":
                raise NotFoundError("gone")
        finally:
            self.running.discard(asked.message)


@asynccontextmanager
async def workers() -> AsyncIterator[tuple[Peers, Echo, AsyncExitStack]]:
    """Give one that asks, and one that answers at place 1 until the stack is closed."""
    # pytest's own folders are too deep for a socket's path.
    with TemporaryDirectory() as name:
        echo = Echo()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(Inbox(echo).serve(Path(name), 1))
            peers = Peers(Path(name), UNREAD_BYTES)
            yield peers, echo, stack
            await peers.close()


async def until(condition: object) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s
        await asyncio.sleep(0.001)


async def test_many_at_once_get_their_own_answers() -> None:
    async with workers() as (peers, _, _):
        messages = [bytes([n % 256]) * (n * 997 % 200_000) for n in range(200)]
        asked = [peers.infer(1, Ask("m", None, message)) for message in messages]
        assert await asyncio.gather(*asked) == messages


async def test_errors_cross_over_and_faults_stay_secret() -> None:
    async with workers() as (peers, _, _):
        with pytest.raises(OverloadedError, match="full") as caught:
            await peers.infer(1, Ask("full", None, b""))
        assert caught.value.retry_after_s == 3.0
        with pytest.raises(InternalError) as broken:
            await peers.infer(1, Ask("broken", None, b""))
        assert "secret" not in str(broken.value)


async def test_who_leaves_is_let_go_there_too() -> None:
    async with workers() as (peers, echo, _):
        task = asyncio.create_task(peers.infer(1, Ask("waits", None, b"x")))
        await until(lambda: echo.running)
        task.cancel()
        await until(lambda: not echo.running)
        assert await peers.infer(1, Ask("m", None, b"still works")) == b"still works"


async def test_a_worker_that_goes_takes_no_caller_with_it() -> None:
    async with workers() as (peers, echo, stack):
        task = asyncio.create_task(peers.infer(1, Ask("waits", None, b"x")))
        await until(lambda: echo.running)
        await stack.aclose()
        with pytest.raises(PeerLostError):
            await task
        with pytest.raises(PeerLostError):
            await peers.infer(1, Ask("m", None, b"y"))
        await until(lambda: not echo.running)


async def test_one_that_takes_its_place_is_found() -> None:
    async with workers() as (peers, _, stack):
        folder = peers._folder
        assert await peers.infer(1, Ask("m", None, b"a")) == b"a"
        await stack.aclose()
        with pytest.raises(PeerLostError):
            await peers.infer(1, Ask("m", None, b"b"))
        async with Inbox(Echo()).serve(folder, 1):
            assert await peers.infer(1, Ask("m", None, b"c")) == b"c"


async def test_a_stream_goes_no_further_than_it_is_read() -> None:
    async with workers() as (peers, echo, _):
        answers = peers.stream(1, Ask("100", None, b"x"))
        assert await anext(answers) == b"x"
        await until(lambda: echo.sent > ANSWERS_AHEAD)
        # Something else goes to and fro meanwhile, so more would have come by now.
        await peers.infer(1, Ask("m", None, b""))
        assert echo.sent <= ANSWERS_AHEAD + 2
        assert [one async for one in answers] == [b"x"] * 99


async def test_a_stream_that_is_left_ends_there_too() -> None:
    async with workers() as (peers, echo, _):
        async with aclosing(peers.stream(1, Ask("100", None, b"x"))) as answers:
            await anext(answers)
        await until(lambda: not echo.running)
        assert echo.sent < 100


async def test_a_stream_that_fails_says_why() -> None:
    async with workers() as (peers, _, _):
        answers = peers.stream(1, Ask("3", None, b"fails"))
        assert [await anext(answers) for _ in range(3)] == [b"fails"] * 3
        with pytest.raises(NotFoundError):
            await anext(answers)


async def test_a_worker_that_is_far_behind_is_asked_no_more() -> None:
    async with workers() as (peers, _, _):
        peers._most_bytes = 1 << 20
        behind = asyncio.create_task(peers.infer(1, Ask("m", None, bytes(64 << 20))))
        link = await peers._link(1)
        await until(lambda: link.unread_bytes > 1 << 20)
        with pytest.raises(OverloadedError, match="behind"):
            await peers.infer(1, Ask("m", None, b"x"))
        assert len(await behind) == 64 << 20
        assert await peers.infer(1, Ask("m", None, b"x")) == b"x"
