"""Servers, channels and lasting streams, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from paldia.core.errors import (
    ConflictError,
    ExpiredError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    OverloadedError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from paldia.kit.connections import ConnectionLimits
from paldia.kit.rpc import (
    RpcServer,
    check_bind,
    error_of,
    keep_stream,
    open_channel,
)

DEADLINE_S = 20.0
SERVICE = "test.Service"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def add(server, **handlers):
    server.server.add_registered_method_handlers(SERVICE, handlers)


@contextlib.asynccontextmanager
async def serving(bind="127.0.0.1:0", *, limit_bytes=1 << 20, grace_s=0.0, **handlers):
    """Serve handlers of bytes; give the address."""
    server = RpcServer(bind, message_limit_bytes=limit_bytes)
    add(server, **handlers)
    address = await server.start([SERVICE])
    try:
        yield address
    finally:
        await server.stop(grace_s)


@contextlib.asynccontextmanager
async def calling(address, **options):
    channel = open_channel(address, **options)
    try:
        yield channel
    finally:
        await channel.close()


class TestBind:
    @pytest.mark.parametrize(
        ("bind", "host"),
        [
            ("127.0.0.1:8001", "127.0.0.1"),
            ("127.9.9.9:0", "127.9.9.9"),
            ("localhost:65535", "localhost"),
            ("[::1]:8001", "[::1]"),
        ],
    )
    def test_loopback_is_taken(self, bind, host):
        assert check_bind(bind, insecure=False) == host

    @pytest.mark.parametrize(
        "bind", ["0.0.0.0:8001", "[::]:8001", "10.0.0.1:0", "example.org:1", "127.0.0.1.evil:1"]
    )
    def test_other_addresses_need_insecure(self, bind):
        with pytest.raises(InvalidArgumentError, match=r"plaintext.*--insecure"):
            RpcServer(bind)
        assert check_bind(bind, insecure=True)

    @pytest.mark.parametrize(
        "bind", ["", ":80", "127.0.0.1", "127.0.0.1:", "h:x", "h:65536", "h:-1"]
    )
    def test_malformed_addresses_are_refused(self, bind):
        with pytest.raises(InvalidArgumentError, match="HOST:PORT"):
            RpcServer(bind, insecure=True)


class TestServer:
    async def test_a_taken_port_is_named(self):
        async with serving() as address:
            with pytest.raises(UnavailableError, match=rf"can't listen on {address}"):
                await RpcServer(address).start([])

    async def test_it_reports_health_by_name_until_it_stops(self):
        server = RpcServer("127.0.0.1:0")
        address = await server.start([SERVICE])
        async with calling(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == SERVING
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == SERVING
            stopping = asyncio.create_task(server.stop(DEADLINE_S))
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            await stopping

    async def test_it_lists_its_services(self):
        async with serving() as address, calling(address) as channel:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            answer = await stub.ServerReflectionInfo(iter([request])).read()
            names = {it.name for it in answer.list_services_response.service}
            assert {SERVICE, "grpc.health.v1.Health"} <= names

    async def test_a_stream_that_watches_for_the_stop_does_not_hold_it_up(self):
        stop = asyncio.Event()

        async def follow(request, context):
            yield b"snapshot"
            await stop.wait()

        server = RpcServer("127.0.0.1:0")
        add(server, Follow=grpc.unary_stream_rpc_method_handler(follow))
        address = await server.start([SERVICE])
        async with calling(address) as channel, asyncio.timeout(DEADLINE_S):
            stream = channel.unary_stream(f"/{SERVICE}/Follow")(b"")
            assert await stream.read() == b"snapshot"
            stop.set()
            await server.stop(3600)
            assert await stream.read() is grpc.aio.EOF

    async def test_a_stream_is_cleaned_up_when_its_caller_goes(self):
        ended = asyncio.Event()

        async def follow(request, context):
            try:
                for _ in range(1_000_000):
                    yield b"x" * 1000
            finally:
                ended.set()

        handler = grpc.unary_stream_rpc_method_handler(follow)
        async with serving(Follow=handler) as address, calling(address) as channel:
            stream = channel.unary_stream(f"/{SERVICE}/Follow")(b"")
            await stream.read()
            stream.cancel()
            async with asyncio.timeout(DEADLINE_S):
                await ended.wait()


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            InvalidArgumentError("tensor INPUT0: expected 16 bytes, got 12"),
            NotFoundError.of("model", "nobody"),
            NotServableError("all hardware failed"),
            ConflictError("somebody else was faster"),
            OverloadedError("busy", 0.25),
            OverloadedError("busy", 90.0),
            TooLargeError("over 128 MiB"),
            ExpiredError("too late"),
            UnavailableError("gone"),
            UnsupportedError("not here"),
            InternalError("broken"),
        ],
        ids=lambda it: type(it).__name__,
    )
    @pytest.mark.parametrize(
        "kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
    )
    async def test_they_come_back_as_they_were_raised(self, error, kind):
        # A refusal before the first request is read may reach an asyncio caller as INTERNAL
        # (grpc/grpc#36066), so read it.
        async def fail(request, context):
            if kind.startswith("stream"):
                await anext(request)
            raise error

        async def fail_later(request, context):
            if kind.startswith("stream"):
                await anext(request)
            yield b"first"
            raise error

        behaviour = fail_later if kind.endswith("_stream") else fail
        handler = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)
        async with serving(Fail=handler) as address, calling(address) as channel:
            call = getattr(channel, kind)(f"/{SERVICE}/Fail")
            response = call(iter([b""]) if kind.startswith("stream") else b"")
            if kind.endswith("_stream"):
                assert await response.read() == b"first"
                answer = response.read()
            else:
                answer = response
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answer
        back = error_of(caught.value)
        assert type(back) is type(error)
        assert str(back) == str(error)
        if isinstance(error, OverloadedError):
            assert back.retry_after_s == error.retry_after_s

    async def fail_with(self, error, **options):
        async def fail(request, context):
            raise error

        handler = grpc.unary_unary_rpc_method_handler(fail)
        async with serving(Fail=handler, **options) as address, calling(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Fail")(b"")
        return error_of(caught.value)

    async def test_a_subclass_travels_as_its_base(self):
        class NarrowError(ConflictError):
            pass

        assert type(await self.fail_with(NarrowError("mine"))) is ConflictError

    async def test_a_plain_error_is_internal(self):
        assert type(await self.fail_with(PaldiaError("odd"))) is InternalError

    async def test_a_bug_is_internal_too(self):
        back = await self.fail_with(KeyError("bug"))
        assert type(back) is InternalError
        assert "UNKNOWN" not in str(back)
        assert "KeyError" not in str(back)
        assert "log" in str(back)

    @pytest.mark.parametrize("error", [NotServableError, OverloadedError])
    @pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f600", "\n"])
    async def test_a_long_message_keeps_its_ends(self, error, letter):
        back = await self.fail_with(error(f"model failed: {letter * 50_000} ZeroDivisionError"))
        assert type(back) is error
        assert str(back).startswith("model failed: ")
        assert str(back).endswith(" ZeroDivisionError")

    async def test_an_oversize_message_is_too_large(self):
        async def echo(request, context):
            return request

        handler = grpc.unary_unary_rpc_method_handler(echo)
        async with serving(Echo=handler, limit_bytes=1000) as address, calling(address) as channel:
            call = channel.unary_unary(f"/{SERVICE}/Echo")
            assert await call(b"x" * 1000) == b"x" * 1000
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"x" * 1001)
        assert type(error_of(caught.value)) is TooLargeError
        assert "1000" in str(error_of(caught.value))

    async def test_nobody_there_is_unavailable(self):
        async with serving() as address:
            pass
        async with calling(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Echo")(b"")
        assert type(error_of(caught.value)) is UnavailableError


class Follower:
    """A kept stream and what it received."""

    def __init__(self, channel, *, fail=None):
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.stop = asyncio.Event()
        self.fail = fail
        self.calls = []
        self.called = asyncio.Event()
        self.task = asyncio.create_task(
            keep_stream(
                "peer", lambda: self.open(channel), self.handle, self.stop, jitter=random.Random(0)
            )
        )

    def open(self, channel):
        self.calls.append(channel.unary_stream(f"/{SERVICE}/Follow")(b""))
        self.called.set()
        return self.calls[-1]

    async def handle(self, response):
        if self.fail is not None:
            raise self.fail
        self.received.put_nowait(response)

    async def get(self):
        async with asyncio.timeout(DEADLINE_S):
            return await self.received.get()

    async def end(self):
        self.stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await self.task


class Feed:
    """A server's stream: a snapshot, then what is put in."""

    def __init__(self, name):
        self.name = name
        self.gone = asyncio.Event()
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.handler = grpc.unary_stream_rpc_method_handler(self.follow)

    async def follow(self, request, context):
        try:
            yield self.name
            while (item := await self.queue.get()) is not None:
                yield item
        finally:
            self.gone.set()

    async def until_gone(self):
        async with asyncio.timeout(DEADLINE_S):
            await self.gone.wait()


class TestKeepStream:
    async def test_it_hands_on_what_comes_until_told_to_stop(self):
        feed = Feed(b"snapshot")
        async with serving(Follow=feed.handler) as address, calling(address) as channel:
            follower = Follower(channel)
            assert await follower.get() == b"snapshot"
            feed.queue.put_nowait(b"change")
            assert await follower.get() == b"change"
            await follower.end()
            await feed.until_gone()

    async def test_it_comes_back_after_the_server_restarted(self):
        first, second = Feed(b"first"), Feed(b"second")
        async with serving(Follow=first.handler) as address:
            channel = open_channel(address)
            follower = Follower(channel)
            assert await follower.get() == b"first"
        async with serving(address, Follow=second.handler):
            assert await follower.get() == b"second"
            await follower.end()
            await channel.close()

    async def test_it_comes_back_after_the_stream_ended(self):
        feed = Feed(b"snapshot")
        async with serving(Follow=feed.handler) as address, calling(address) as channel:
            follower = Follower(channel)
            assert await follower.get() == b"snapshot"
            feed.queue.put_nowait(None)
            assert await follower.get() == b"snapshot"
            await follower.end()

    async def test_it_stops_while_nobody_is_there(self):
        async with serving() as address:
            pass
        async with calling(address) as channel:
            follower = Follower(channel)
            async with asyncio.timeout(DEADLINE_S):
                await follower.called.wait()
                await follower.calls[0].code()
            await follower.end()

    async def test_it_stops_in_the_middle_of_a_flood(self):
        async def flood(request, context):
            while True:
                yield b"x"

        handler = grpc.unary_stream_rpc_method_handler(flood)
        async with serving(Follow=handler) as address, calling(address) as channel:
            follower = Follower(channel)
            for _ in range(100):
                await follower.get()
            await follower.end()

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("handler"),
            grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()
            ),
        ],
        ids=["bug", "a call of its own failed"],
    )
    async def test_the_handlers_error_ends_it_and_the_call(self, error):
        feed = Feed(b"snapshot")
        async with serving(Follow=feed.handler) as address, calling(address) as channel:
            follower = Follower(channel, fail=error)
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(type(error)):
                    await follower.task
            await feed.until_gone()
            assert len(follower.calls) == 1

    async def test_cancelling_it_ends_the_call(self):
        feed = Feed(b"snapshot")
        async with serving(Follow=feed.handler) as address, calling(address) as channel:
            before = asyncio.all_tasks()
            follower = Follower(channel)
            await follower.get()
            follower.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await follower.task
            await feed.until_gone()
            names = [it.get_coro().__qualname__ for it in asyncio.all_tasks() - before]
            assert not [it for it in names if "anext" in it or "_step" in it]

    async def test_a_generator_around_a_call_is_closed(self):
        closed = asyncio.Event()

        async def responses():
            try:
                yield b"x"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def fail(response):
            raise ValueError

        with pytest.raises(ValueError):
            await keep_stream("peer", responses, fail, asyncio.Event())
        assert closed.is_set()


async def connect(address):
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def closed(reader):
    """Wait until the server has closed a connection."""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass


async def slow(request, context):
    await context.send_initial_metadata(())
    await asyncio.sleep(DEADLINE_S)


async def pong(request, context):
    return request


@contextlib.asynccontextmanager
async def limited(**limits):
    server = RpcServer("127.0.0.1:0", connection_limits=ConnectionLimits(**limits))
    add(
        server,
        Ping=grpc.unary_unary_rpc_method_handler(pong),
        Slow=grpc.unary_unary_rpc_method_handler(slow),
    )
    address = await server.start([SERVICE])
    try:
        yield address
    finally:
        await server.stop(0)


class TestConnectionLimits:
    @pytest.mark.parametrize(
        "opening",
        [b"", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"],
    )
    async def test_a_connection_that_does_not_get_to_speak_http2_is_closed(self, opening):
        async with limited(handshake_s=0.2) as address:
            reader, writer = await connect(address)
            writer.write(opening)
            await closed(reader)
            writer.close()

    async def test_a_connection_without_calls_is_closed_and_opened_again(self):
        async with limited(idle_s=0.2) as address, calling(address) as channel:
            ping = channel.unary_unary(f"/{SERVICE}/Ping")
            assert await ping(b"1") == b"1"
            async with asyncio.timeout(DEADLINE_S):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            assert await ping(b"2", wait_for_ready=True) == b"2"

    async def test_a_header_block_that_never_ends_is_closed(self):
        async with limited(idle_s=0.3) as address:
            reader, writer = await connect(address)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
            writer.write(frame(1, 0, 1, b"\x00\x01a\x01b"))

            async def trickle():
                with contextlib.suppress(ConnectionError):
                    while True:
                        writer.write(frame(9, 0, 1, b"\x00\x01a\x01b"))
                        await writer.drain()
                        await asyncio.sleep(0.02)

            trickling = asyncio.ensure_future(trickle())
            await closed(reader)
            trickling.cancel()
            writer.close()

    async def test_one_connection_too_many_is_closed(self):
        async with (
            limited(connections=2) as address,
            calling(address) as first,
            calling(address) as second,
        ):
            for channel in (first, second):
                assert await channel.unary_unary(f"/{SERVICE}/Ping")(b"1") == b"1"
            reader, writer = await connect(address)
            await closed(reader)
            writer.close()
            assert await first.unary_unary(f"/{SERVICE}/Ping")(b"1") == b"1"

    async def test_a_flood_of_metadata_is_refused(self):
        async with limited(metadata_bytes=2048) as address, calling(address) as channel:
            ping = channel.unary_unary(f"/{SERVICE}/Ping")
            for flood in ([("key", "v" * 4096)], [(f"key-{i}", "v") for i in range(300)]):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ping(b"", metadata=flood, timeout=DEADLINE_S)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "metadata" in caught.value.details()
            assert await ping(b"1", metadata=[("key", "v" * 1024)]) == b"1"

    async def test_calls_beyond_those_of_a_connection_wait_with_the_client(self):
        async with limited(streams=2) as address, calling(address) as channel:
            calls = [channel.unary_stream(f"/{SERVICE}/Slow")(b"") for _ in range(2)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Ping")(b"", timeout=0.5)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            for call in calls:
                call.cancel()
            assert await channel.unary_unary(f"/{SERVICE}/Ping")(b"1", timeout=DEADLINE_S) == b"1"


def frame(kind, flags, stream, payload):
    """Make an HTTP/2 frame."""
    size = len(payload).to_bytes(3, "big")
    return size + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class TestMethods:
    async def test_one_that_is_not_there_is_refused(self):
        async with limited() as address, calling(address) as channel:
            for name in ("/x.Y/Z", f"/{SERVICE}/Pong", "", "/", "/ü", "nothing"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(name)(b"", timeout=DEADLINE_S)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                assert "no such method" in caught.value.details()
            stream = channel.stream_stream("/x.Y/Z")(timeout=DEADLINE_S)
            assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED

    @pytest.mark.parametrize("name", [b"/x\xdb/Y", b"\xff", b"/" + SERVICE.encode() + b"/Ping\xc3"])
    async def test_a_name_that_is_no_text_ends_no_server(self, name):
        names = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", name)]
        names += [
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        block = b"".join(
            b"\0" + bytes([len(key)]) + key + bytes([len(value)]) + value for key, value in names
        )
        async with limited() as address, calling(address) as channel:
            reader, writer = await connect(address)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
            writer.write(frame(1, 4, 1, block) + frame(0, 1, 1, b"\0\0\0\0\0"))
            async with asyncio.timeout(DEADLINE_S):
                received = b""
                while b"no such method" not in received:
                    piece = await reader.read(1 << 16)
                    assert piece, "the server hung up"
                    received += piece
            writer.close()
            assert await channel.unary_unary(f"/{SERVICE}/Ping")(b"1", timeout=DEADLINE_S) == b"1"

    async def test_callers_that_do_not_wait_to_be_refused_leave_nothing(self):
        async with limited() as address, calling(address) as channel:
            calls = [channel.unary_unary("/x.Y/Z")(b"") for _ in range(200)]
            for call in calls[::2]:
                call.cancel()
            for call in calls[1::2]:
                assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            assert await channel.unary_unary(f"/{SERVICE}/Ping")(b"1", timeout=DEADLINE_S) == b"1"
