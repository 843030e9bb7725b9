"""Leaves a port that other processes have, too: first no new connections, then none at all.

gRPC has no word for the first of these, and hands out no sockets, so they are found among the
process's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

_LOOK_S = 0.1


async def drain_port(port: int, limit_s: float) -> None:
    """Stop listening on a TCP port, and wait for its connections to go, `limit_s` at most."""
    for own in _own_sockets(port):
        if own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            # Closing is gRPC's; this takes it out of those that the kernel deals connections to.
            own.shutdown(socket.SHUT_RD)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            # Nobody tells when a connection of gRPC's goes.
            while any(map(_is_connected, _own_sockets(port))):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)


def _own_sockets(port: int) -> Iterator[socket.socket]:
    """Give this process's TCP sockets that have the port; gRPC hands out none of its own."""
    for name in os.listdir("/proc/self/fd"):
        try:
            own = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            # It isn't a socket, or was closed meanwhile.
            continue
        with own:
            if own.type is socket.SOCK_STREAM and own.family in (socket.AF_INET, socket.AF_INET6):
                with contextlib.suppress(OSError):
                    if own.getsockname()[1] == port:
                        yield own


def _is_connected(own: socket.socket) -> bool:
    try:
        own.getpeername()
    except OSError:
        return False
    return True
