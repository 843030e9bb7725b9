"""HTTP/2 by hand, as far as it takes to do it wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
_READ_S = 0.5
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Count = Callable[[str], None]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Make a frame."""
    size = len(payload).to_bytes(3, "big")
    return size + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """Encode a header as a literal that isn't indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


OPENING = PREFACE + frame(SETTINGS, 0, 0, b"")
BLOCK = (
    header(b":method", b"POST")
    + header(b":scheme", b"http")
    + header(b":path", b"/inference.GRPCInferenceService/ServerLive")
    + header(b":authority", b"x")
    + header(b"te", b"trailers")
    + header(b"content-type", b"application/grpc")
)
CALL = frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")


@contextlib.asynccontextmanager
async def connection(address: str) -> AsyncIterator[Connection]:
    """Open a connection; hang up in the end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def throw(address: str, sent: bytes, count: Count) -> None:
    """Send something on a new connection, wait a little for its end, and note how it went."""
    try:
        async with connection(address) as (reader, writer):
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(_READ_S):
                while await reader.read(1 << 16):
                    pass
            count("closed")
    except TimeoutError:
        count("left open")
    except OSError:
        count("reset")


async def hold(address: str, connections: int, sent: bytes, drip: bytes, count: Count) -> Any:
    """Open many connections, send something on each, then a drop each second, for ever."""
    opened: list[Connection] = []
    host, _, port = address.rpartition(":")
    for _ in range(connections):
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            count("not opened")
            continue
        writer.write(sent)
        opened.append((reader, writer))
        count("opened")
    while True:
        await asyncio.sleep(1)
        for reader, writer in opened:
            if reader.at_eof() or writer.is_closing():
                count("closed, once a second")
            elif drip:
                writer.write(drip)
