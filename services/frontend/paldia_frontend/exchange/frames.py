"""What workers say to each other over a Unix socket: frames, a head and a body each. Pure.

An inference call of gRPC's between two processes costs more than all the rest of a request does
here, so this is a few bytes before what has been serialised anyway.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from paldia.core.errors import InternalError, PaldiaError
from paldia.kit.status import error_from_status, status_of

_HEAD = struct.Struct("<IBI")
_ASK = struct.Struct("<dH")
_COUNT = struct.Struct("<I")
_BODY_MOST = (1 << 32) - 1


class Kind(enum.IntEnum):
    """What a frame says of a call."""

    ASK = 1
    """Answer a request, once."""
    ASK_MANY = 2
    """Answer a request as often as its model does."""
    ANSWER = 3
    END = 4
    """There are no more answers."""
    FAILED = 5
    CANCEL = 6
    """Nobody waits for it any more."""
    MORE = 7
    """So many answers were taken: as many more may be sent."""


class Frame(NamedTuple):
    """A frame as it came.

    Attributes:
        call: number that whoever asked gave the call; it tells the calls of a connection apart.
    """

    kind: Kind
    call: int
    body: bytes


class Ask(NamedTuple):
    """A request for another worker.

    Attributes:
        deadline_s: when its caller gives up, by the clock that all processes of a machine share
            (CLOCK_MONOTONIC); None for never.
        message: inference.ModelInferRequest, serialised.
    """

    model: str
    deadline_s: float | None
    message: bytes


class Reader:
    """Cuts what comes over a connection into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def read(self, data: bytes) -> Iterator[Frame]:
        """Take bytes in and give the frames that are complete.

        Raises:
            InternalError: these are no frames.
        """
        held = self._held
        held += data
        at = 0
        try:
            while len(held) - at >= _HEAD.size:
                length, kind, call = _HEAD.unpack_from(held, at)
                end = at + _HEAD.size + length
                if len(held) < end:
                    break
                body = bytes(memoryview(held)[at + _HEAD.size : end])
                at = end
                try:
                    known = Kind(kind)
                except ValueError as error:
                    raise InternalError(f"another worker sent a frame of kind {kind}") from error
                yield Frame(known, call, body)
        finally:
            del held[:at]


def frame(kind: Kind, call: int, *parts: bytes) -> list[bytes]:
    """Give the pieces to send, in order.

    Raises:
        InternalError: the body is longer than a frame can say.
    """
    length = sum(map(len, parts))
    if length > _BODY_MOST:
        raise InternalError(f"{length} bytes are too many for one frame")
    return [_HEAD.pack(length, kind, call), *parts]


def ask(kind: Kind, call: int, asked: Ask) -> list[bytes]:
    """Give the pieces of a frame that asks."""
    name = asked.model.encode()
    deadline_s = math.inf if asked.deadline_s is None else asked.deadline_s
    return frame(kind, call, _ASK.pack(deadline_s, len(name)), name, asked.message)


def asked_by(body: bytes) -> Ask:
    """Read what is asked.

    Raises:
        InternalError: it makes no sense.
    """
    try:
        deadline_s, length = _ASK.unpack_from(body)
        name = body[_ASK.size : _ASK.size + length].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise InternalError(f"another worker asked what can't be read: {error}") from error
    until_s = None if math.isinf(deadline_s) else deadline_s
    return Ask(name, until_s, body[_ASK.size + length :])


def failed(call: int, error: PaldiaError) -> list[bytes]:
    """Give the pieces of a frame that says why there is no answer, or no more."""
    return frame(Kind.FAILED, call, status_of(error).SerializeToString())


def failure(body: bytes) -> PaldiaError:
    """Read why there is no answer."""
    try:
        return error_from_status(status_pb2.Status.FromString(body))
    except DecodeError as error:
        return InternalError(f"another worker failed, and why can't be read: {error}")


def more(call: int, count: int) -> list[bytes]:
    """Give the pieces of a frame that lets so many more answers come."""
    return frame(Kind.MORE, call, _COUNT.pack(count))


def count_of(body: bytes) -> int:
    """Read how many more answers may be sent.

    Raises:
        InternalError: it makes no sense.
    """
    try:
        return int(_COUNT.unpack(body)[0])
    except struct.error as error:
        raise InternalError(f"another worker sent no count: {error}") from error
