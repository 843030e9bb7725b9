"""A connection to another worker: frames out, put together where several go at once; frames in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from paldia.core.errors import InternalError
from paldia.kit.observability import logger
from paldia_frontend.exchange.frames import Frame, Reader


class Link(asyncio.Protocol):
    """One end of a connection.

    Attributes:
        lost: whether it is gone.
    """

    def __init__(
        self, take: Callable[[Link, Frame], None], on_lost: Callable[[Link], None]
    ) -> None:
        """Give each frame to `take`."""
        self.lost = False
        self._take = take
        self._on_lost = on_lost
        self._reader = Reader()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what frames are written to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out what is complete."""
        try:
            for frame in self._reader.read(data):
                self._take(self, frame)
        except InternalError as error:
            logger().error("worker.unreadable", error=str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that nothing comes any more."""
        self.lost = True
        self._out.clear()
        self._on_lost(self)

    @property
    def unread_bytes(self) -> int:
        """How much the peer has not read yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, pieces: Sequence[bytes]) -> None:
        """Send a frame, together with all others of this turn of the loop."""
        if self.lost:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += pieces

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self.lost:
            self._transport.writelines(self._out)
            self._out = []
