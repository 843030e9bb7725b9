"""The agent's one stream to the controller: reports up, desired state down.

A broken stream is opened again and needs no history: the agent says who and how it is,
the controller answers with all it wants. Meanwhile the node goes on as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from paldia.api.v1 import agent_pb2, agent_pb2_grpc
from paldia.core.errors import UnavailableError
from paldia.kit import rpc
from paldia.kit.lifecycle import sleep_unless

REPORT_EVERY_S = 1.0
# Changes so close together travel in one report.
_TOGETHER_S = 0.05
_STALL_LIMIT_S = 30.0


class ControllerLink:
    """Connection to the controller."""

    def __init__(self, controller: str) -> None:
        """Prepare to connect to `controller`, HOST:PORT."""
        self._address = controller
        self._channel = rpc.open_channel(controller)
        self._stub = agent_pb2_grpc.AgentServiceStub(self._channel)
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Report soon rather than in a second: something changed."""
        self._changed.set()

    async def run(
        self,
        node: Callable[[], agent_pb2.NodeInfo],
        report: Callable[[], agent_pb2.NodeReport],
        handle: Callable[[agent_pb2.ConnectAgentResponse], Awaitable[None]],
        stop: asyncio.Event,
    ) -> None:
        """Hold the stream until `stop`; every message down goes to `handle`.

        `node` is said first, and again when it gives something else.
        """
        await rpc.keep_stream(self._address, lambda: self._open(node, report), handle, stop)

    async def _open(
        self, node: Callable[[], agent_pb2.NodeInfo], report: Callable[[], agent_pb2.NodeReport]
    ) -> AsyncIterator[agent_pb2.ConnectAgentResponse]:
        call = self._stub.ConnectAgent(self._requests(node, report))
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    async def _requests(
        self, node: Callable[[], agent_pb2.NodeInfo], report: Callable[[], agent_pb2.NodeReport]
    ) -> AsyncIterator[agent_pb2.ConnectAgentRequest]:
        told = node()
        yield agent_pb2.ConnectAgentRequest(node=told)
        while True:
            self._changed.clear()
            news = None if told == (now := node()) else now
            yield agent_pb2.ConnectAgentRequest(node=news, report=report())
            told = now
            if await sleep_unless(self._changed, REPORT_EVERY_S):
                await asyncio.sleep(_TOGETHER_S)

    async def fetch(self, digest: str) -> AsyncIterator[bytes]:
        """Give the pieces of a packed artifact.

        Raises:
            UnavailableError: the controller can't be reached, or stalls.
            PaldiaError: it refused.
        """
        call = self._stub.FetchArtifact(agent_pb2.FetchArtifactRequest(digest=digest))
        try:
            while True:
                async with asyncio.timeout(_STALL_LIMIT_S):
                    response = await call.read()
                if not isinstance(response, agent_pb2.FetchArtifactResponse):
                    return
                yield response.chunk
        except grpc.aio.AioRpcError as error:
            raise rpc.error_of(error) from error
        except TimeoutError as error:
            raise UnavailableError(
                f"the controller sent nothing of an artifact for {_STALL_LIMIT_S:g} s"
            ) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
