"""gRPC as every PALDIA process speaks it: servers, channels, errors, lasting streams."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

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
from paldia.kit.observability import logger

Response = TypeVar("Response")
FailedCall: TypeAlias = "grpc.aio.AioRpcError | grpc.Call"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# The four kinds of handler share no type that says so.
Handler: TypeAlias = Any

_BACKOFF_FIRST_S = 0.2
_BACKOFF_MOST_S = 3.0

DEFAULT_MESSAGE_LIMIT_BYTES = 128 << 20
CHUNK_BYTES = 1 << 20
"""Size of a piece when files travel in streams."""

# TooLargeError shares its code with OverloadedError, which alone carries RetryInfo.
_CODE_OF_ERROR: tuple[tuple[type[PaldiaError], grpc.StatusCode], ...] = (
    (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (NotServableError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConflictError, grpc.StatusCode.ABORTED),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ExpiredError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (UnsupportedError, grpc.StatusCode.UNIMPLEMENTED),
    (InternalError, grpc.StatusCode.INTERNAL),
)


def code_of(error: PaldiaError) -> grpc.StatusCode:
    """Give the status code that stands for an error."""
    for kind, code in _CODE_OF_ERROR:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def error_of(call: FailedCall) -> PaldiaError:
    """Turn a failed call's status back into the error that caused it."""
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry_after_s = _retry_after_s(call)
        if retry_after_s is None:
            return TooLargeError(details)
        return OverloadedError(details, retry_after_s)
    for kind, known in _CODE_OF_ERROR:
        if code is known:
            return kind(details)
    if code is grpc.StatusCode.CANCELLED:
        return UnavailableError(details or "the call was cancelled")
    return InternalError(f"{code.name}: {details}")


def _retry_after_s(call: FailedCall) -> float | None:
    status = rpc_status.from_call(call)
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    return None


async def abort(context: Context, error: PaldiaError) -> NoReturn:
    """End a call with the status that stands for `error`."""
    if isinstance(error, OverloadedError):
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(error.retry_after_s * 1e6))
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(
            code=code_pb2.RESOURCE_EXHAUSTED, message=str(error), details=[detail]
        )
        context.set_trailing_metadata(rpc_status.to_status(status).trailing_metadata)
    await context.abort(code_of(error), str(error))
    raise AssertionError("abort always raises")


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Lets servicers raise PaldiaError: this turns it into the call's status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap the handler, whichever of the four kinds it is."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        for kind, make in (
            ("unary_unary", grpc.unary_unary_rpc_method_handler),
            ("stream_unary", grpc.stream_unary_rpc_method_handler),
            ("unary_stream", grpc.unary_stream_rpc_method_handler),
            ("stream_stream", grpc.stream_stream_rpc_method_handler),
        ):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                guard = _guard_generator if inspect.isasyncgenfunction(behaviour) else _guard
                return make(
                    guard(behaviour), handler.request_deserializer, handler.response_serializer
                )
        return handler


def _guard(behaviour: Any) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await behaviour(request, context)
        except PaldiaError as error:
            await abort(context, error)

    return call


def _guard_generator(behaviour: Any) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(request, context):
                yield response
        except PaldiaError as error:
            await abort(context, error)

    return call


class RpcServer:
    """A gRPC server with health, reflection and a port that is safe to bind.

    Serves plaintext, so it refuses any address but loopback unless told `insecure`:
    deploying a model is running code.
    """

    def __init__(
        self,
        bind: str,
        *,
        insecure: bool = False,
        message_limit_bytes: int = DEFAULT_MESSAGE_LIMIT_BYTES,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        """Prepare a server for `bind`, `HOST:PORT` with port 0 for any free one.

        Raises:
            InvalidArgumentError: the address is malformed, or not loopback.
        """
        self._bind = bind
        self._host = check_bind(bind, insecure=insecure)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self.server = grpc.aio.server(
            interceptors=[*interceptors, ErrorInterceptor()],
            options=[
                ("grpc.max_receive_message_length", message_limit_bytes),
                ("grpc.max_send_message_length", message_limit_bytes),
                # Two processes on one port must be asked for, not happen.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    async def start(self, service_names: Iterable[str]) -> str:
        """Bind and serve the services already added to `server`, under these full names.

        Returns:
            The address bound, with the real port.

        Raises:
            UnavailableError: the port is taken.
        """
        self._names = [*service_names]
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.server
        )
        try:
            port = self.server.add_insecure_port(self._bind)
        except RuntimeError as error:
            raise UnavailableError(
                f"can't listen on {self._bind}: the port is taken or not permitted; "
                "choose another with --bind, or stop the process that has it "
                f"(ss -ltnp 'sport = :{self._bind.rpartition(':')[2]}')"
            ) from error
        await self.server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return f"{self._host}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Report NOT_SERVING, refuse new calls and give those under way `grace_s` seconds.

        A stream holds this up for the whole grace, so every stream of ours ends by itself
        once its service stops.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.server.stop(grace_s)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


def check_bind(bind: str, *, insecure: bool) -> str:
    """Check that an address to listen on is well-formed and safe; give its host.

    Raises:
        InvalidArgumentError: it isn't.
    """
    host, colon, port = bind.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidArgumentError(f"{bind!r} is no address to listen on; write HOST:PORT")
    if not insecure and not _is_loopback(host):
        raise InvalidArgumentError(
            f"{bind} can be reached from other machines, and the connection is plaintext: whoever "
            "reaches it can run code here. Bind to 127.0.0.1, or add --insecure on a network "
            "you trust"
        )
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def channel_options(
    *, message_limit_bytes: int = DEFAULT_MESSAGE_LIMIT_BYTES, service_config: str = ""
) -> list[tuple[str, Any]]:
    """Give the options of a channel that notices dead peers and doesn't share connections."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", message_limit_bytes),
        ("grpc.max_send_message_length", message_limit_bytes),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.use_local_subchannel_pool", 1),
        # A restarted peer is found again within a second or so.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if service_config:
        options.append(("grpc.service_config", service_config))
    return options


def open_channel(
    address: str,
    *,
    message_limit_bytes: int = DEFAULT_MESSAGE_LIMIT_BYTES,
    service_config: str = "",
) -> grpc.aio.Channel:
    """Open a channel with `channel_options`."""
    options = channel_options(
        message_limit_bytes=message_limit_bytes, service_config=service_config
    )
    return grpc.aio.insecure_channel(address, options=options)


async def keep_stream(
    peer: str,
    open_stream: Callable[[], AsyncIterator[Response]],
    handle: Callable[[Response], Awaitable[None]],
    stop: asyncio.Event,
    *,
    jitter: random.Random | None = None,
) -> None:
    """Hold a stream to `peer` until `stop`: reopen it, with jittered backoff, when it breaks.

    `open_stream` starts a call and gives its responses; every call begins with a full
    snapshot, so a broken stream needs no history. Errors that `handle` raises end it all.
    """
    log = logger()
    jitter = jitter or random.Random()  # noqa: S311 - spreads reconnects, keeps no secret
    backoff_s = _BACKOFF_FIRST_S
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            responses = aiter(open_stream())
            connected = False
            try:
                while True:
                    step = asyncio.ensure_future(anext(responses))
                    await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    if not step.done():
                        step.cancel()
                        await asyncio.gather(step, return_exceptions=True)
                        return
                    response = step.result()
                    if not connected:
                        connected, backoff_s = True, _BACKOFF_FIRST_S
                        log.info("stream.connected", peer=peer)
                    await handle(response)
            except StopAsyncIteration:
                log.info("stream.ended", peer=peer)
            except grpc.aio.AioRpcError as error:
                log.warning(
                    "stream.broken", peer=peer, code=error.code().name, details=error.details()
                )
            await asyncio.wait({stopped}, timeout=backoff_s * jitter.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _BACKOFF_MOST_S)
    finally:
        stopped.cancel()
