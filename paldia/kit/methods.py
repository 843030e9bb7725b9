"""A gRPC server that refuses methods it doesn't have itself, in place of grpc.aio.

grpc.aio decodes the name of every method that isn't registered in the loop that accepts calls, and
one that is no UTF-8 ends that loop, and the server with it: one packet is enough. So all methods
are registered (generated code does that), their names compared byte by byte within gRPC, and what
is left is answered here, unseen by that loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from paldia.kit.observability import logger

_REFUSED_AT_ONCE = 1024
_UNKNOWN = "no such method here; grpcurl HOST:PORT list shows what there is"


class _Accepting(cygrpc.AioServer):  # type: ignore[misc]
    """Accepts calls of methods that are registered, and refuses all others."""

    _refusing: set[asyncio.Task[None]]

    async def _request_call(self) -> None:
        """Wait for calls of unknown methods, for ever: none is ever handed on."""
        self._refusing = set()
        while True:
            call = await super()._request_call()
            if len(self._refusing) < _REFUSED_AT_ONCE:
                task = asyncio.create_task(_refuse(call))
                self._refusing.add(task)
                task.add_done_callback(self._refusing.discard)
            # One that is let go of is cancelled.
            del call


async def _refuse(call: Any) -> None:
    try:
        await cygrpc._send_error_status_from_server(
            call,
            grpc.StatusCode.UNIMPLEMENTED.value[0],
            _UNKNOWN,
            (),
            cygrpc.SendInitialMetadataOperation((), 0),
            asyncio.get_running_loop(),
        )
    except cygrpc.ExecuteBatchError:
        logger().debug("call.left", reason="its caller did not wait to be refused")


class MethodServer(_server.Server):
    """A grpc.aio.Server that serves registered methods only: `add_registered_method_handlers`."""

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        # As the base does, but for what accepts.
        self._loop = cygrpc.get_working_loop()
        self._server = _Accepting(
            self._loop,
            None,
            (),
            interceptors,
            _server._augment_channel_arguments(options, None),
            None,
        )
