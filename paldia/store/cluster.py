"""Calls to an etcd cluster: to one member at a time, to the next when it doesn't answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from paldia.core.errors import InvalidArgumentError
from paldia.store.base import LeaseExpiredError, StoreUnavailableError

Result = TypeVar("Result")

_ANSWERS = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
"""What every member would say; any other failure may be the member's own."""


@dataclass(frozen=True, slots=True)
class Member:
    """One etcd server and the stubs to call it."""

    endpoint: str
    channel: grpc.aio.Channel
    kv: Any
    lease: Any
    watch: Any


class Cluster:
    """The members, and which of them is called."""

    def __init__(
        self, api: Any, endpoints: Sequence[str], *, timeout_s: float, message_limit_bytes: int
    ) -> None:
        """Prepare calls to `endpoints`, each `HOST:PORT`, with the stubs in `api`.

        Raises:
            InvalidArgumentError: there is no endpoint, or one is malformed.
        """
        _check_endpoints(endpoints)
        self._members = [_connect(api, endpoint, message_limit_bytes) for endpoint in endpoints]
        self._at = 0
        self._timeout_s = timeout_s
        self.closed = asyncio.Event()

    @property
    def member(self) -> Member:
        """The member to call now."""
        return self._members[self._at]

    def leave(self, member: Member) -> None:
        """Go to the next member, unless another call did so already."""
        if member is self.member:
            self._at = (self._at + 1) % len(self._members)

    async def call(
        self, start: Callable[[Member, float], Awaitable[Result]], *, once: bool = False
    ) -> Result:
        """Make a call, `start(member, timeout_s)`, within the timeout.

        Each member gets a try, or only one if the call mustn't be made twice.

        Raises:
            StoreUnavailableError: no answer.
            LeaseExpiredError, InvalidArgumentError: etcd's answer.
        """
        if self.closed.is_set():
            raise StoreUnavailableError("the store is closed")
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        tries_left = 1 if once else len(self._members)
        while True:
            member = self.member
            tries_left -= 1
            try:
                return await start(member, deadline_s - loop.time())
            except grpc.aio.AioRpcError as error:
                if error.code() not in _ANSWERS:
                    self.leave(member)
                    if tries_left and loop.time() < deadline_s:
                        continue
                raise _error_of(error, member) from error
            except asyncio.CancelledError as error:
                if not self.ended_by_close():
                    raise
                raise StoreUnavailableError("the store was closed") from error

    def ended_by_close(self) -> bool:
        """Tell a call that ended with its channel from one whose task was cancelled."""
        task = asyncio.current_task()
        return self.closed.is_set() and (task is None or not task.cancelling())

    async def close(self) -> None:
        """Close all connections; calls under way end."""
        self.closed.set()
        for member in self._members:
            await member.channel.close()


def _check_endpoints(endpoints: Sequence[str]) -> None:
    if not endpoints:
        raise InvalidArgumentError("the etcd store needs --etcd-endpoints HOST:PORT[,HOST:PORT]")
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise InvalidArgumentError(
                f"{endpoint!r} is no etcd endpoint; write --etcd-endpoints HOST:PORT[,HOST:PORT]"
            )


def _connect(api: Any, endpoint: str, message_limit_bytes: int) -> Member:
    channel = grpc.aio.insecure_channel(
        endpoint,
        options=[
            ("grpc.max_receive_message_length", message_limit_bytes),
            # Not more often: etcd hangs up on clients that ping within 5 s.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
    )
    return Member(
        endpoint, channel, api.KVStub(channel), api.LeaseStub(channel), api.WatchStub(channel)
    )


def _error_of(error: grpc.aio.AioRpcError, member: Member) -> Exception:
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.NOT_FOUND:
        # Only a lease is ever missing: reading an absent key is no error.
        return LeaseExpiredError(f"the lease had expired ({details})")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgumentError(f"etcd refused the request: {details}")
    return StoreUnavailableError(
        f"etcd at {member.endpoint} did not do it ({code.name}: {details}); "
        "check that it runs and that --etcd-endpoints is right"
    )
