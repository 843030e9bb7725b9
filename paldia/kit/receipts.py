"""Requests on their way in: how many calls, how large, for how long. Memory is what it is about.

gRPC holds a message until all of it has come, and doesn't tell its size before. So each is read
here, in place of by gRPC, and watched: one that takes longer than a moment, for it is large or its
sender slow, may be given up while memory is scarce. A moment's bytes are bounded by the network.
What has come counts against a budget until its call has ended, its answer sent. Of a stream nobody
knows which of its requests is done with, so streams aren't read on while memory is scarce.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from paldia.core.errors import ExpiredError, InvalidArgumentError, OverloadedError, PaldiaError
from paldia.kit.memory import Memory
from paldia.kit.status import Context, Handler, WrappingInterceptor

_SMALL_BYTES = 16 << 10
"""Messages of this size are let in whatever the budget: the number of calls bounds them."""
_LARGE_BYTES = 4 << 20
"""Larger messages take their time, and leave memory behind that is free, but kept."""
_RETRY_AFTER_S = 1.0

Check = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class ReceiptLimits:
    """What may be under way at most.

    Attributes:
        calls: at once, streams included.
        held_bytes: of requests that have come and answers that haven't been read.
        resident_bytes: of the process, above which memory counts as scarce.
        long_receipts: messages that may go on coming for longer than a moment even so.
        receive_s: how long a message may be coming, but for those of streams.
        moment_s: how long a message isn't looked at.
    """

    calls: int = 16384
    held_bytes: int = 1 << 30
    resident_bytes: int = 2 << 30
    long_receipts: int = 8
    receive_s: float = 60.0
    moment_s: float = 0.25


class Receipts(WrappingInterceptor):
    """Receives the requests of all calls of a server, and counts what they hold."""

    def __init__(
        self,
        limits: ReceiptLimits,
        *,
        checks: Mapping[str, Check] | None = None,
        on_refusal: Callable[[str], None] = lambda cause: None,
    ) -> None:
        """Keep to limits.

        `checks`, by method, are told each message before it is decoded, and raise PaldiaError for
        one that isn't safe to decode. `on_refusal` is told in a word why a call isn't let in.
        """
        super().__init__()
        self.limits = limits
        self.calls = 0
        self.held_bytes = 0
        self.long_receipts = 0
        self._turn = asyncio.Lock()
        self._checks = checks or {}
        self._on_refusal = on_refusal
        self.memory = Memory(limits.resident_bytes)

    def refuse(self, cause: str, words: str) -> OverloadedError:
        """Say why there is no room, and count it."""
        self._on_refusal(cause)
        return OverloadedError(f"{words}; try again in {_RETRY_AFTER_S:g} s", _RETRY_AFTER_S)

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Receive what a method is asked in place of gRPC."""
        decode = _decoder(handler.request_deserializer, self._checks.get(method))
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(handler.unary_unary, decode, handler.response_serializer or bytes)
            )
        if inspect.isasyncgenfunction(handler.stream_stream):
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, decode, handler.response_serializer or bytes)
            )
        # Of gRPC's own, which write their answers themselves.
        return handler

    def _unary(
        self,
        behaviour: Callable[[Any, Context], Awaitable[Any]],
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
    ) -> Callable[[Any, Context], Awaitable[bytes]]:
        async def call(_: Any, context: Context) -> bytes:
            held = self._hold(context)
            encoded = await self._receive(context, self.limits.receive_s)
            if encoded is None:
                raise InvalidArgumentError("the call has no request")
            size_bytes = len(encoded)
            held.take(size_bytes)
            if size_bytes > _LARGE_BYTES:
                await self._take_turn()
            request = decode(encoded)
            del encoded
            answer = encode(await behaviour(request, context))
            del request
            held.give_back(size_bytes)
            held.take(len(answer))
            return answer

        return call

    def _stream(
        self,
        behaviour: Callable[[Any, Context], AsyncGenerator[Any, None]],
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
    ) -> Callable[[Any, Context], AsyncGenerator[bytes, None]]:
        async def requests(context: Context) -> AsyncIterator[Any]:
            while (encoded := await self._receive(context, None)) is not None:
                yield decode(encoded)
                if await self.memory.is_scarce_for(self.limits.receive_s, self.limits.moment_s):
                    raise self.refuse("memory", "memory is scarce here")

        async def call(_: Any, context: Context) -> AsyncGenerator[bytes, None]:
            held = self._hold(context)
            async with aclosing(behaviour(requests(context), context)) as responses:
                async for response in responses:
                    answer = encode(response)
                    held.take(len(answer))
                    yield answer
                    # It has been sent.
                    held.give_back(len(answer))

        return call

    async def _take_turn(self) -> None:
        """Wait for a round of the event loop in which nobody else starts on a large message."""
        await self._turn.acquire()
        asyncio.get_running_loop().call_soon(self._turn.release)

    def _hold(self, context: Context) -> _Held:
        held = _Held(self)
        # The stubs ask for a class where any function will do.
        context.add_done_callback(held.let_go)  # type: ignore[arg-type]
        return held

    async def _receive(self, context: Context, receive_s: float | None) -> bytes | None:
        """Read a call's next message; None if there is none.

        Raises:
            OverloadedError: it takes long, and memory is scarce.
            ExpiredError: it takes too long.
        """
        coming = _Coming(self, receive_s)
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if coming.error is None:
                raise
            coming.task.uncancel()
            raise coming.error from None
        finally:
            coming.end()
        return None if message is grpc.aio.EOF else message


class _Held:
    """What a call holds: a place among all calls, and bytes."""

    __slots__ = ("_bytes", "_receipts")

    def __init__(self, receipts: Receipts) -> None:
        limits = receipts.limits
        if receipts.calls >= limits.calls:
            raise receipts.refuse("calls", f"{limits.calls} calls are under way here")
        receipts.calls += 1
        self._receipts = receipts
        self._bytes = 0

    def take(self, size_bytes: int) -> None:
        """Hold a message.

        Raises:
            OverloadedError: the budget doesn't allow it.
        """
        receipts = self._receipts
        most_bytes = receipts.limits.held_bytes
        if size_bytes > _SMALL_BYTES and receipts.held_bytes + size_bytes > most_bytes:
            raise receipts.refuse(
                "bytes", f"the {most_bytes >> 20} MiB for messages under way are used up"
            )
        receipts.held_bytes += size_bytes
        self._bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Hold a message no more."""
        self._receipts.held_bytes -= size_bytes
        self._bytes -= size_bytes

    def let_go(self, context: Context) -> None:
        """Hold nothing any more: the call has ended."""
        self._receipts.calls -= 1
        self._receipts.held_bytes -= self._bytes
        if self._bytes > _LARGE_BYTES:
            self._receipts.memory.tidy_up_soon()
        self._bytes = 0


class _Coming:
    """A message that is being received, by a task: looked at each moment, and given up if need be.

    `error` says why, if it is given up.
    """

    __slots__ = ("_has_place", "_left_s", "_receipts", "_timer", "error", "task")

    def __init__(self, receipts: Receipts, receive_s: float | None) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are served in tasks")
        self.task = task
        self.error: PaldiaError | None = None
        self._receipts = receipts
        self._left_s = receive_s
        self._has_place = False
        self._timer = task.get_loop().call_later(receipts.limits.moment_s, self._look)

    def end(self) -> None:
        """It has come, or nobody waits for it any more."""
        self._timer.cancel()
        if self._has_place:
            self._receipts.long_receipts -= 1

    def _look(self) -> None:
        receipts, limits = self._receipts, self._receipts.limits
        if self._left_s is not None:
            self._left_s -= limits.moment_s
            if self._left_s <= 0:
                receipts._on_refusal("slow")
                self._give_up(
                    ExpiredError(f"the request did not come within {limits.receive_s:g} s")
                )
                return
        if not self._has_place:
            if receipts.long_receipts < limits.long_receipts:
                receipts.long_receipts += 1
                self._has_place = True
            elif receipts.memory.is_scarce():
                self._give_up(
                    receipts.refuse("memory", "memory is scarce here, and the request long to come")
                )
                return
        self._timer = self.task.get_loop().call_later(limits.moment_s, self._look)

    def _give_up(self, error: PaldiaError) -> None:
        self.error = error
        self.task.cancel()


def _decoder(
    deserialize: Callable[[bytes], Any] | None, check: Check | None
) -> Callable[[bytes], Any]:
    def decode(encoded: bytes) -> Any:
        if check is not None:
            check(encoded)
        if deserialize is None:
            return encoded
        try:
            return deserialize(encoded)
        except DecodeError as error:
            raise InvalidArgumentError(f"the request can't be decoded: {error}") from error

    return decode
