"""Tritons: a channel to each that is routed, and what their errors mean.

A channel is closed once its endpoint is no longer routed and nothing runs on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from paldia.core.dispatch.types import Retry
from paldia.core.errors import (
    ExpiredError,
    OverloadedError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
)
from paldia.kit.rpc import error_of, open_channel

# Triton's words for requests it gives up in its own queues, both under UNAVAILABLE, which
# would invite callers to send even more.
_QUEUE_TIMED_OUT = "timeout expired"
_QUEUE_FULL = "maximum queue size"
# gRPC's words for an answer over the channel's limit.
_TOO_LARGE = "larger than max"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed call means: whether to try again, and what to say if not."""

    retry: Retry
    error: PaldiaError


def judge(
    failed: grpc.aio.AioRpcError, node_id: str, *, is_merged: bool, has_version: bool, timed: bool
) -> Verdict:
    """Say what a failed inference means.

    `is_merged`: it was made for several requests; `has_version`: it named a version of the
    model; `timed`: it had a limit on its time in queues.
    """
    code, details = failed.code(), failed.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        retry = Retry.ALONE if is_merged else Retry.NO
        if _QUEUE_TIMED_OUT in details and timed:
            return Verdict(
                retry, ExpiredError(f"the request's timeout passed in Triton: {details}")
            )
        if _QUEUE_TIMED_OUT in details or _QUEUE_FULL in details:
            return Verdict(retry, OverloadedError(f"Triton's queue on {node_id}: {details}"))
        return Verdict(
            Retry.ELSEWHERE, UnavailableError(f"node {node_id} did not answer: {details}")
        )
    if code is grpc.StatusCode.NOT_FOUND and not has_version:
        # The model has just left that node; a route that says so is on its way.
        return Verdict(
            Retry.ELSEWHERE, UnavailableError(f"node {node_id} no longer has it: {details}")
        )
    if is_merged and code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        # One of the requests may be to blame, and the others should not suffer for it.
        return Verdict(Retry.ALONE, error_of(failed))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return Verdict(Retry.NO, TooLargeError(f"{details}; raise it with --message-limit-mib"))
    return Verdict(Retry.NO, error_of(failed))


class Upstream:
    """One Triton; `emulated` if the hardware that it runs on isn't there."""

    def __init__(self, endpoint: str, message_limit_bytes: int) -> None:
        self.endpoint = endpoint
        self.users = 0
        self.routed = True
        self.emulated = False
        self._channel = open_channel(endpoint, message_limit_bytes=message_limit_bytes)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()


class Upstreams:
    """All Tritons in use, by endpoint."""

    def __init__(self, message_limit_bytes: int) -> None:
        self._message_limit_bytes = message_limit_bytes
        self._known: dict[str, Upstream] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def route(self, wanted: Mapping[str, bool]) -> None:
        """Keep connections to these endpoints, and to others only until they are idle.

        Args:
            wanted: whether it is emulated, by endpoint.
        """
        for endpoint, emulated in wanted.items():
            if endpoint not in self._known:
                self._known[endpoint] = Upstream(endpoint, self._message_limit_bytes)
            self._known[endpoint].emulated = emulated
        for endpoint, upstream in list(self._known.items()):
            upstream.routed = endpoint in wanted
            self._close_if_idle(upstream)

    def acquire(self, endpoint: str) -> Upstream:
        """Take an endpoint into use; `release` it afterwards."""
        upstream = self._known[endpoint]
        upstream.users += 1
        return upstream

    def release(self, upstream: Upstream) -> None:
        """Give an endpoint back."""
        upstream.users -= 1
        self._close_if_idle(upstream)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(upstream.close() for upstream in self._known.values()))
        await asyncio.gather(*self._closing)
        self._known.clear()

    def _close_if_idle(self, upstream: Upstream) -> None:
        if upstream.routed or upstream.users:
            return
        del self._known[upstream.endpoint]
        task = asyncio.create_task(upstream.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
