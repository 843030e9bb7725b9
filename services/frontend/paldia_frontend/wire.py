"""How much of an encoded request is anything but tensors' contents. Pure.

Decoding makes an object of every field, and the smallest takes two bytes: a message of nothing but
those grows to forty times its size. Contents don't grow like that, so all the rest is limited,
before it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from paldia.core.errors import InvalidArgumentError, TooLargeError

HEAD_LIMIT_BYTES = 256 << 10
"""Most bytes of names, shapes, parameters and all that belongs to no tensor's contents."""
FIELDS_MOST = 4096
"""Most fields of a message that is looked at: no model has as many tensors."""
_HARMLESS_BYTES = 16 << 10
"""Messages of this size aren't looked at: they may grow as they like."""

# Field numbers of ModelInferRequest, and of its InferInputTensor.
_INPUTS, _RAW_INPUT_CONTENTS = 5, 7
_CONTENTS = 5
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_MOST = 10


class _MalformedError(Exception):
    """It can't be decoded; whoever decodes it finds better words."""


def check_head(encoded: bytes) -> None:
    """Refuse a ModelInferRequest that is large, and not for its tensors' contents.

    Raises:
        TooLargeError: it is.
        InvalidArgumentError: it is large and can't be decoded.
    """
    if len(encoded) <= _HARMLESS_BYTES:
        return
    try:
        contents_bytes = _contents_bytes(encoded)
    except (_MalformedError, IndexError):
        raise InvalidArgumentError("the request can't be decoded") from None
    if len(encoded) - contents_bytes > HEAD_LIMIT_BYTES:
        raise TooLargeError(
            f"the request has more than {HEAD_LIMIT_BYTES >> 10} KiB of names, shapes and "
            "parameters; send data as tensors"
        )


def _contents_bytes(encoded: bytes) -> int:
    """Count the bytes of tensors' contents.

    Raises:
        TooLargeError: it has too many fields.
    """
    contents_bytes = seen = 0
    for field, start, end in _fields(encoded, 0, len(encoded)):
        seen += 1
        if field == _INPUTS:
            for inner_field, inner_start, inner_end in _fields(encoded, start, end):
                seen += 1
                if inner_field == _CONTENTS:
                    contents_bytes += inner_end - inner_start
                if seen > FIELDS_MOST:
                    break
        elif field == _RAW_INPUT_CONTENTS:
            contents_bytes += end - start
        if seen > FIELDS_MOST:
            raise TooLargeError(
                f"the request has more than {FIELDS_MOST} names, shapes, parameters and tensors; "
                "send data as few tensors"
            )
    return contents_bytes


def _fields(encoded: bytes, at: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """Give each field's number, and where its value starts and ends.

    The number is 0 where the value isn't delimited by its length.
    """
    while at < limit:
        tag, at = _varint(encoded, at)
        kind, field = tag & 7, 0
        if kind == _VARINT:
            start, (_, at) = at, _varint(encoded, at)
        elif kind == _LENGTH:
            size, start = _varint(encoded, at)
            field, at = tag >> 3, start + size
        elif kind in (_FIXED64, _FIXED32):
            start, at = at, at + (8 if kind == _FIXED64 else 4)
        else:
            raise _MalformedError
        if at > limit:
            raise _MalformedError
        yield field, start, at


def _varint(encoded: bytes, at: int) -> tuple[int, int]:
    """Give a number and where it ends."""
    value = 0
    for index in range(_VARINT_MOST):
        byte = encoded[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise _MalformedError
