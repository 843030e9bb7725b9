"""A server that does nothing: `python -m paldia.load.noop FD`, a pipe's end.

It answers every request with the same bytes, which come over the pipe, so that the generator's own
part of a latency can be seen. It tells its port, and ends when the pipe does.
"""

from __future__ import annotations

import asyncio
import sys
from multiprocessing.connection import Connection
from typing import Any

import grpc

from paldia.load.sender import METHOD


async def _serve(pipe: Connection) -> None:
    answer = pipe.recv_bytes()

    async def infer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return answer

    service, _, method = METHOD.removeprefix("/").partition("/")
    handler = grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_unary_rpc_method_handler(infer)}
    )
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pipe.send(f"127.0.0.1:{port}")
    await asyncio.to_thread(pipe.poll, None)
    await server.stop(0)


def main() -> None:
    """Serve until the pipe ends."""
    with Connection(int(sys.argv[1])) as pipe:
        asyncio.run(_serve(pipe))


if __name__ == "__main__":
    main()
