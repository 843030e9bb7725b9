"""Requests on their way in: slow ones, large ones, and too many."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from paldia.core.errors import OverloadedError
from paldia.kit.receipts import ReceiptLimits, Receipts
from paldia.kit.rpc import RpcServer, error_of, open_channel

LIMIT_S = 20.0
QUICK = {"moment_s": 0.02}
ABUNDANT = 1 << 50


class Service:
    """Gives back what it is sent, once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.inside = 0

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.inside += 1
        try:
            await self.may_answer.wait()
            return request
        finally:
            self.inside -= 1

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


@contextlib.asynccontextmanager
async def serving(limits: ReceiptLimits, **options: Any) -> AsyncIterator[Any]:
    """Serve with limits; give the service, its receipts and a channel."""
    service, causes = Service(), []
    receipts = Receipts(limits, on_refusal=causes.append, **options)
    server = RpcServer("127.0.0.1:0", interceptors=[receipts], message_limit_bytes=64 << 20)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(service.unary),
        "Stream": grpc.stream_stream_rpc_method_handler(service.stream),
    }
    server.server.add_registered_method_handlers("test.Service", handlers)
    channel = open_channel(await server.start(["test.Service"]))
    try:
        yield service, receipts, channel, causes
    finally:
        service.may_answer.set()
        await channel.close()
        await server.stop(0)


def unary(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary("/test.Service/Unary")


def sending(channel: grpc.aio.Channel, method: str = "Unary") -> Any:
    """Open a call whose request is up to the caller."""
    return channel.stream_stream(f"/test.Service/{method}")(timeout=LIMIT_S)


async def status_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read() if hasattr(call, "read") else await call
    return caught.value


async def until(condition: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)


async def test_calls_are_answered_and_hold_nothing_afterwards() -> None:
    async with serving(ReceiptLimits()) as (_, receipts, channel, causes):
        assert await unary(channel)(b"x" * 100_000) == b"x" * 100_000
        stream = channel.stream_stream("/test.Service/Stream")(iter([b"a" * 99_999, b"", b"c"]))
        assert [len(it) async for it in stream] == [99_999, 0, 1]
        await until(lambda: receipts.calls == 0)
        assert (receipts.held_bytes, receipts.long_receipts, causes) == (0, 0, [])


async def test_a_request_that_does_not_come_is_given_up() -> None:
    limits = ReceiptLimits(receive_s=0.1, resident_bytes=ABUNDANT, **QUICK)
    async with serving(limits) as (_, receipts, channel, causes):
        failed = await status_of(sending(channel))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not come within 0.1 s" in failed.details()
        assert causes == ["slow"]
        await until(lambda: receipts.calls == 0)
        assert receipts.long_receipts == 0


async def test_a_quiet_stream_is_left_alone() -> None:
    limits = ReceiptLimits(receive_s=0.02, long_receipts=0, resident_bytes=ABUNDANT, **QUICK)
    async with serving(limits) as (_, _receipts, channel, _causes):
        stream = sending(channel, "Stream")
        failed = await status_of(sending(channel))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # It has been looked at more often than that by now.
        await stream.write(b"at last")
        assert await stream.read() == b"at last"
        await stream.done_writing()


@pytest.mark.parametrize("method", ["Unary", "Stream"])
async def test_where_memory_is_scarce_only_so_many_may_take_long(method: str) -> None:
    limits = ReceiptLimits(long_receipts=1, resident_bytes=0, **QUICK)
    async with serving(limits) as (_, receipts, channel, causes):
        first = sending(channel, method)
        await until(lambda: receipts.long_receipts == 1)
        failed = await status_of(sending(channel, method))
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error_of(failed), OverloadedError), "worth trying again"
        assert causes == ["memory"]
        await first.write(b"slow but sure")
        assert await first.read() == b"slow but sure"
        await first.done_writing()
        await until(lambda: receipts.long_receipts == 0)


async def test_where_memory_is_scarce_a_stream_is_not_read_on() -> None:
    limits = ReceiptLimits(resident_bytes=0, receive_s=0.1, **QUICK)
    async with serving(limits) as (_service, receipts, channel, causes):
        stream = channel.stream_stream("/test.Service/Stream")(iter([b"1", b"2"]), timeout=LIMIT_S)
        assert await stream.read() == b"1"
        failed = await status_of(stream)
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error_of(failed), OverloadedError)
        assert causes == ["memory"]
        receipts.memory.limit_bytes = ABUNDANT
        await until(lambda: not receipts.memory.is_scarce())
        stream = channel.stream_stream("/test.Service/Stream")(iter([b"1", b"2"]), timeout=LIMIT_S)
        assert [await stream.read() for _ in range(2)] == [b"1", b"2"]


async def test_a_caller_that_leaves_while_it_sends_leaves_nothing() -> None:
    async with serving(ReceiptLimits(**QUICK)) as (_, receipts, channel, _causes):
        call = sending(channel)
        await until(lambda: receipts.long_receipts == 1)
        call.cancel()
        await until(lambda: receipts.calls == 0)
        assert receipts.long_receipts == 0


async def test_a_call_without_a_request_is_told_so() -> None:
    async with serving(ReceiptLimits()) as (_, _receipts, channel, _causes):
        call = sending(channel)
        await call.done_writing()
        failed = await status_of(call)
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no request" in failed.details()


async def test_large_messages_have_a_budget_until_their_calls_end() -> None:
    limits = ReceiptLimits(held_bytes=1_000_000)
    async with serving(limits) as (service, receipts, channel, causes):
        service.may_answer.clear()
        first = unary(channel)(bytes(600_000))
        await until(lambda: service.inside == 1)
        failed = await status_of(unary(channel)(bytes(600_000)))
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error_of(failed), OverloadedError)
        assert causes == ["bytes"]
        small = unary(channel)(b"small ones pass")
        await until(lambda: service.inside == 2)
        service.may_answer.set()
        assert await small == b"small ones pass"
        # Once there is an answer its request counts no more.
        assert len(await first) == 600_000
        await until(lambda: receipts.calls == 0)
        assert receipts.held_bytes == 0
        assert len(await unary(channel)(bytes(900_000))) == 900_000


async def test_answers_of_a_stream_count_while_they_are_sent() -> None:
    limits = ReceiptLimits(held_bytes=1_000_000)
    async with serving(limits) as (_, receipts, channel, _causes):
        stream = channel.stream_stream("/test.Service/Stream")(iter([bytes(600_000)] * 5))
        assert [len(it) async for it in stream] == [600_000] * 5
        failed = await status_of(sending_one(channel, bytes(1_100_000)))
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: receipts.held_bytes == 0)


def sending_one(channel: grpc.aio.Channel, message: bytes) -> Any:
    return channel.stream_stream("/test.Service/Stream")(iter([message]), timeout=LIMIT_S).read()


async def test_only_so_many_calls_run_at_once() -> None:
    async with serving(ReceiptLimits(calls=2)) as (service, receipts, channel, causes):
        service.may_answer.clear()
        calls = [unary(channel)(b"") for _ in range(2)]
        await until(lambda: service.inside == 2)
        failed = await status_of(unary(channel)(b""))
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 calls" in failed.details()
        assert causes == ["calls"]
        service.may_answer.set()
        assert [await call for call in calls] == [b""] * 2
        await until(lambda: receipts.calls == 0)


async def test_a_message_is_checked_before_it_is_decoded() -> None:
    def check(encoded: bytes) -> None:
        if b"bomb" in encoded:
            raise OverloadedError("no bombs", 1.0)

    checks = {"/test.Service/Unary": check}
    async with serving(ReceiptLimits(), checks=checks) as (_service, _, channel, _causes):
        assert await unary(channel)(b"flower") == b"flower"
        assert "no bombs" in (await status_of(unary(channel)(b"a bomb"))).details()
