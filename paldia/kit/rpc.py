"""gRPC as every PALDIA process speaks it: servers, channels, errors, lasting streams."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from typing import Any, TypeVar, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.kit.connections import ConnectionLimits
from paldia.kit.draining import drain_port
from paldia.kit.methods import MethodServer
from paldia.kit.observability import logger
from paldia.kit.status import Context, ErrorInterceptor, FailedCall, abort, code_of, error_of

__all__ = [
    "CHUNK_BYTES",
    "DEFAULT_MESSAGE_LIMIT_BYTES",
    "UNIX",
    "Context",
    "ErrorInterceptor",
    "FailedCall",
    "RpcServer",
    "abort",
    "channel_options",
    "check_bind",
    "code_of",
    "error_of",
    "keep_stream",
    "open_channel",
]

Response = TypeVar("Response")

_BACKOFF_FIRST_S = 0.2
_BACKOFF_MOST_S = 3.0

DEFAULT_MESSAGE_LIMIT_BYTES = 128 << 20
UNIX = "unix:"
"""How the address of a socket in the file system begins."""
CHUNK_BYTES = 1 << 20
"""Size of a piece when files travel in streams."""


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
        connection_limits: ConnectionLimits | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        shares_port: bool = False,
        connection_age_s: float | None = None,
    ) -> None:
        """Prepare a server for `bind`.

        Args:
            bind: `HOST:PORT`, with port 0 for any free one, or `unix:PATH`.
            insecure: take an address that isn't loopback.
            message_limit_bytes: most bytes of a message.
            interceptors: what calls go through.
            shares_port: let others that share it have the port, too: the kernel gives each
                connection to one of them.
            connection_age_s: after which, more or less, a client is asked to open another
                connection; no call fails for it. None for never.

        Interceptors may raise PaldiaError in what they wrap, as servicers do.

        Raises:
            InvalidArgumentError: the address is malformed, or not loopback.
        """
        self._bind = bind
        self._host = check_bind(bind, insecure=insecure)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self.address = bind
        server = MethodServer(
            interceptors=[ErrorInterceptor(), *interceptors],
            options=[
                ("grpc.max_receive_message_length", message_limit_bytes),
                ("grpc.max_send_message_length", message_limit_bytes),
                # Two processes on one port must be asked for, not happen.
                ("grpc.so_reuseport", int(shares_port)),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                # A peer that is gone without a word is noticed, and its streams end.
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                *_aging(connection_age_s),
                *(connection_limits or ConnectionLimits()).options(),
            ],
        )
        self.server = cast(grpc.aio.Server, server)
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
        self.address = self._bind if self._bind.startswith(UNIX) else f"{self._host}:{port}"
        return self.address

    async def drain(self, limit_s: float) -> None:
        """Take no more connections, and wait for those that there are to go as they age.

        gRPC fails what comes while a server stops, so whoever shares the port and can wait drains
        first. Connections that remain after `limit_s` are left to `stop`.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await drain_port(int(self.address.rpartition(":")[2]), limit_s)

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


def _aging(age_s: float | None) -> list[tuple[str, int]]:
    if age_s is None:
        return []
    return [("grpc.max_connection_age_ms", max(1, round(age_s * 1000)))]


def check_bind(bind: str, *, insecure: bool) -> str:
    """Check that an address to listen on is well-formed and safe; give its host.

    A socket in the file system is as safe as its folder.

    Raises:
        InvalidArgumentError: it isn't.
    """
    if bind.startswith(UNIX):
        return bind
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
        while not stopped.done():
            stream = open_stream()
            responses, connected = aiter(stream), False
            try:
                while (step := await _step(responses, stopped)) is not None:
                    try:
                        response = step.result()
                    except StopAsyncIteration:
                        log.info("stream.ended", peer=peer)
                        break
                    except grpc.aio.AioRpcError as error:
                        code, details = error.code().name, error.details()
                        log.warning("stream.broken", peer=peer, code=code, details=details)
                        break
                    if not connected:
                        connected, backoff_s = True, _BACKOFF_FIRST_S
                        log.info("stream.connected", peer=peer)
                    await handle(response)
            finally:
                await _end(stream)
            await asyncio.wait({stopped}, timeout=backoff_s * jitter.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _BACKOFF_MOST_S)
    finally:
        stopped.cancel()


async def _step(
    responses: AsyncIterator[Response], stopped: asyncio.Future[Any]
) -> asyncio.Future[Response] | None:
    """Wait for the next response, or how the stream ended; None once `stopped`."""
    step = asyncio.ensure_future(anext(responses))
    try:
        await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stopped.done() else step
    finally:
        if stopped.done() or not step.done():
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _end(stream: AsyncIterator[Response]) -> None:
    """End a call, or a generator around one, so that the peer learns of it now."""
    if isinstance(stream, grpc.aio.Call):
        stream.cancel()
    elif isinstance(stream, AsyncGenerator):
        await stream.aclose()
