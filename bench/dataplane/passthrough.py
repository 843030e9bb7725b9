"""The least that a proxy on grpc.aio can do: bytes in, bytes out, nothing read or counted.

`python -m bench.dataplane.passthrough --bind HOST:PORT --upstream HOST:PORT` is one process;
several share a port (SO_REUSEPORT).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from paldia.kit.lifecycle import announce_ready, run

OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
_GRACE_S = 1.0

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]


class Passing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Hands every unary call to the same method of another server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Give the handler of a call."""
        return grpc.unary_unary_rpc_method_handler(self._handler(details.method))

    @functools.cache  # noqa: B019 - one object, as many entries as there are methods
    def _handler(self, method: str) -> Handler:
        call: Any = self._channel.unary_unary(method)

        async def passed(request: bytes, context: Context) -> bytes:
            try:
                answer: bytes = await call(request)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            return answer

        return passed


async def serve(bind: str, upstream: str, ready_file: Path | None, stop: asyncio.Event) -> None:
    """Pass calls on until `stop`."""
    async with grpc.aio.insecure_channel(upstream, options=OPTIONS) as channel:
        server = grpc.aio.server(handlers=(Passing(channel),), options=OPTIONS)
        server.add_insecure_port(bind)
        await server.start()
        announce_ready(ready_file, {"grpc": bind})
        await stop.wait()
        await server.stop(_GRACE_S)


def main() -> int:
    """Run one process; give its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.dataplane.passthrough")
    parser.add_argument("--bind", required=True, metavar="HOST:PORT")
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT")
    parser.add_argument("--ready-file", type=Path)
    options = parser.parse_args()
    return run(lambda stop: serve(options.bind, options.upstream, options.ready_file, stop))


if __name__ == "__main__":
    raise SystemExit(main())
