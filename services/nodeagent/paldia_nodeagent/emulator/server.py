"""The emulator's process: one card behind a Unix socket, for the Tritons and the agent.

It outlives an agent that is killed, as the Tritons do, and ends by itself once nobody has been
connected for a while. Only its own user may connect. Waiting is by select(), which alone knows
microseconds; a batch's end is told within some 0.1 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from paldia.core.errors import InvalidArgumentError, PaldiaError
from paldia.core.types import Hardware
from paldia_nodeagent.emulator import wire
from paldia_nodeagent.emulator.card import INSTANCES_LIMIT, Card

_CLIENTS_LIMIT = INSTANCES_LIMIT + 16
_BACKLOG = 64
_READ_BYTES = 16 << 10
_PEER = struct.Struct("3i")


@dataclass(slots=True)
class _Client:
    """One connection; `number` names it on the card."""

    number: int
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)


class Server:
    """Serves a card on a socket until asked to stop, or left alone."""

    def __init__(
        self, name: str, hardware: Hardware, speed: float, *, alone_limit_s: float
    ) -> None:
        """Listen as `name`; end after `alone_limit_s` seconds without anyone connected.

        Raises:
            OSError: another emulator has that name.
        """
        self._card = Card(hardware, speed, time.monotonic())
        self._identity = {"hardware": hardware.name, "speed": speed, "pid": os.getpid()}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(wire.address(name))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        # epoll's timeouts are whole milliseconds.
        self._selector = selectors.SelectSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: dict[int, _Client] = {}
        self._number = 0
        self._alone_limit_s = alone_limit_s
        self._alone_since_s = time.monotonic()
        self._stopping = False

    def stop(self) -> None:
        """End at the next opportunity."""
        self._stopping = True

    def serve(self) -> None:
        """Serve."""
        with contextlib.closing(self._selector), self._listener:
            while not self._stopping and not self._is_left_alone():
                for key, _ in self._selector.select(self._patience_s()):
                    if key.data is None:
                        self._accept()
                    else:
                        self._hear(key.data)
                self._tell_done()
            for client in [*self._clients.values()]:
                self._drop(client)

    def _is_left_alone(self) -> bool:
        if self._clients:
            self._alone_since_s = time.monotonic()
        return time.monotonic() - self._alone_since_s > self._alone_limit_s

    def _patience_s(self) -> float:
        """Give how long nothing happens by itself."""
        return min(1.0, max(0.0, self._card.next_event_s - time.monotonic()))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            if _PEER.unpack(peer)[1] != os.getuid() or len(self._clients) >= _CLIENTS_LIMIT:
                connection.close()
                return
            self._number += 1
            client = _Client(self._number, connection)
            self._clients[client.number] = client
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        """Forget a client; what it ran is given up and its memory is free."""
        if self._clients.pop(client.number, None) is not None:
            self._card.leave(client.number, time.monotonic())
            self._selector.unregister(client.socket)
            client.socket.close()

    def _hear(self, client: _Client) -> None:
        try:
            data = client.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > wire.LINE_LIMIT_BYTES:
            self._drop(client)
            return
        for line in _lines(client.received):
            answer: dict[str, Any] | None
            try:
                answer = self._answer(client, wire.decode(line))
            except PaldiaError as error:
                answer = {"error": str(error)}
            if answer is not None:
                self._send(client, answer)

    def _answer(self, client: _Client, message: dict[str, Any]) -> dict[str, Any] | None:
        """Do what a message asks for; None where the answer comes later."""
        match message:
            case {"enter": told}:
                self._card.enter(client.number, wire.process_of(told), time.monotonic())
                return {}
            case {"run": int(rows), "early_s": float(early_s)}:
                self._card.run(client.number, rows, early_s, time.monotonic())
                return None
            case {"read": _}:
                now_s = time.monotonic()
                reading = self._card.read(now_s)
                return {
                    **self._identity,
                    "now_s": now_s,
                    "busy_s": reading.busy_s,
                    "joules": reading.joules,
                    "memory_bytes": reading.memory_bytes,
                }
        raise InvalidArgumentError("expected enter, run or read")

    def _tell_done(self) -> None:
        for number in self._card.take_done(time.monotonic()):
            self._send(self._clients[number], {})

    def _send(self, client: _Client, message: dict[str, Any]) -> None:
        data = wire.encode(message)
        try:
            sent = client.socket.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            # It doesn't read, though it has asked, or is gone.
            self._drop(client)


def _lines(received: bytearray) -> Iterator[bytes]:
    """Take the whole lines out of what was received."""
    while (end := received.find(b"\n")) >= 0:
        line = bytes(received[:end])
        del received[: end + 1]
        yield line


def main() -> int:
    """Run an emulator; give its exit code."""
    parser = argparse.ArgumentParser(prog="paldia-emulator", description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--idle-watts", type=float, required=True)
    parser.add_argument("--rated-watts", type=float, required=True)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--alone-limit-s", type=float, default=10.0)
    given = parser.parse_args()
    hardware = Hardware(
        given.hardware,
        0.0,
        given.memory_bytes,
        idle_watts=given.idle_watts,
        rated_watts=given.rated_watts,
    )
    try:
        server = Server(given.socket, hardware, given.speed, alone_limit_s=given.alone_limit_s)
    except OSError as error:
        print(f"can't listen as {given.socket}: {error.strerror}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
