"""Sends requests, each when it is due, however the others fare.

A request's bytes are made beforehand, and what comes back is kept as bytes: the generator shares a
machine with what it measures more often than not, and is to take as little of it as it can.

Open loop: users don't wait for each other, so neither does this. Latency counts from the time a
request was meant to be sent: when server or generator stalls, the requests that should have gone
out meanwhile pay for it, as their users would. Closed loop: callers that wait for their answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import grpc

from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.load.outcomes import ANSWERED, CANCELLED, EXPIRED, UNSENT

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CONNECT_S = 10.0
_BURST = 32
"""Requests that are sent in one go when many are due."""
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Each channel has a connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
)
_READY = grpc.ChannelConnectivity.READY

Metadata: TypeAlias = Sequence[tuple[str, str]]


class Settled(NamedTuple):
    """A request whose fate is known; times in seconds from the start.

    Attributes:
        number: its place among those of its sender, from 0.
        code: gRPC's name of the status, or UNSENT.
        answer: the encoded ModelInferResponse; empty if there is none.
        details: what the server said of a failure.
    """

    number: int
    intended_s: float
    sent_s: float
    done_s: float
    code: str
    answer: bytes
    details: str


def precise_loop() -> asyncio.AbstractEventLoop:
    """Give an event loop whose timers aren't rounded up to whole milliseconds, as epoll's are."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


@contextlib.asynccontextmanager
async def open_channels(address: str, count: int) -> AsyncIterator[Sequence[grpc.aio.Channel]]:
    """Connect so many times, before any clock starts.

    Raises:
        UnavailableError: nobody answers there.
    """
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            for _ in range(count)
        ]
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.gather(*map(_connect, channels))
        except (TimeoutError, ConnectionError):
            raise UnavailableError(
                f"no inference server answers at {address}; start it, or correct the address"
            ) from None
        yield channels


async def _connect(channel: grpc.aio.Channel) -> None:
    while (state := channel.get_state(try_to_connect=True)) is not _READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ConnectionError
        await channel.wait_for_state_change(state)


class Sender:
    """The requests under way, on one clock."""

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        payloads: Sequence[bytes],
        settle: Callable[[Settled], None],
        *,
        deadline_s: float,
        in_flight_limit: int,
        metadata: Metadata = (),
    ) -> None:
        """Prepare to send, payloads and channels taking turns.

        Args:
            channels: connections to the server.
            payloads: encoded ModelInferRequests.
            settle: told each request's fate.
            deadline_s: when a request is given up, from when it was meant to be sent.
            in_flight_limit: most requests under way; past it they count as UNSENT.
            metadata: goes with each call.

        Raises:
            InvalidArgumentError: there are no payloads.
        """
        if not payloads:
            raise InvalidArgumentError("to send requests takes the inputs of one at least")
        self._calls: list[Any] = [channel.unary_unary(METHOD) for channel in channels]
        self._payloads = payloads
        self._settle = settle
        self._deadline_s = deadline_s
        self._limit = in_flight_limit
        self._metadata = tuple(metadata) or None
        self._loop = asyncio.get_running_loop()
        self._start_s = self._loop.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._stopping = False

    def start_at(self, monotonic_s: float) -> None:
        """Set the moment that times count from, by the machine's monotonic clock."""
        self._start_s = monotonic_s

    def now_s(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._start_s

    async def open_loop(self, offsets_s: Iterable[float]) -> None:
        """Send one request at each of these rising times, and wait for the last to be known."""
        for index, intended_s in enumerate(offsets_s):
            wait_s = intended_s - self.now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif index % _BURST == 0:
                await asyncio.sleep(0)
            if len(self._tasks) < self._limit:
                self._spawn(self._send(index, intended_s))
            else:
                now_s = self.now_s()
                self._settle(Settled(index, intended_s, now_s, now_s, UNSENT, b"", ""))
        await self._drain()

    async def closed_loop(self, callers: int, until_s: float) -> None:
        """Have callers send one request after another, each once the one before is known."""
        for number in range(callers):
            self._spawn(self._call(number, callers, until_s))
        await self._drain()

    async def _call(self, number: int, callers: int, until_s: float) -> None:
        await asyncio.sleep(max(0.0, -self.now_s()))
        index = number
        while (now_s := self.now_s()) < until_s and not self._stopping:
            await self._send(index, now_s)
            index += callers

    async def _drain(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._error is not None:
            raise self._error

    async def abandon(self, grace_s: float) -> None:
        """Send nothing more; what is under way then has so many seconds to be answered."""
        self._stopping = True
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and self._error is None:
            self._error = task.exception()

    async def _send(self, index: int, intended_s: float) -> None:
        sent_s = self.now_s()
        left_s = self._deadline_s - (sent_s - intended_s)
        code, answer, details = CANCELLED, b"", ""
        try:
            if left_s > 0:
                call = self._calls[index % len(self._calls)]
                payload = self._payloads[index % len(self._payloads)]
                answer = await call(payload, timeout=left_s, metadata=self._metadata)
                code = ANSWERED
            else:
                code, details = EXPIRED, "its deadline had passed before it could be sent"
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
        finally:
            self._settle(Settled(index, intended_s, sent_s, self.now_s(), code, answer, details))
