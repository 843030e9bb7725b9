"""The bytes of a request's inputs, whichever way they were sent. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paldia.core.errors import InvalidArgumentError, UnsupportedError

InferRequest = Any
InputTensor = Any

BYTES = "BYTES"
_NUMPY_TYPES: dict[str, np.dtype[Any] | None] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    # The protocol has no typed form for these.
    "FP16": None,
    "BF16": None,
}
ITEM_BYTES = {name: kind.itemsize if kind else 2 for name, kind in _NUMPY_TYPES.items()}
_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
# Fields that also carry narrower types than their own.
_FIELD_TYPES = {"int_contents": np.dtype("<i4"), "uint_contents": np.dtype("<u4")}
ITEMS_LIMIT = 1 << 20
"""Most typed elements, or strings, in one tensor: each costs time in which nobody else is
served."""
SHARED_MEMORY = "shared_memory_region"
"""Parameter of a tensor that lies in the caller's own memory."""


def raw_contents(request: InferRequest) -> list[bytes]:
    """Give each input's bytes, in order: raw contents skip the inputs that have typed ones.

    Raises:
        InvalidArgumentError: contents are missing, left over or of another type.
        UnsupportedError: an input refers to memory that a proxy can't reach.
    """
    remaining = iter(request.raw_input_contents)
    contents = []
    for tensor in request.inputs:
        if SHARED_MEMORY in tensor.parameters:
            raise UnsupportedError(
                f"input {tensor.name!r} lies in shared memory, which doesn't reach through a "
                "proxy; send its contents"
            )
        if tensor.HasField("contents"):
            contents.append(_encode(tensor))
            continue
        raw = next(remaining, None)
        if raw is None:
            raise InvalidArgumentError(f"input {tensor.name!r} has no contents")
        contents.append(raw)
    surplus = len(list(remaining))
    if surplus:
        raise InvalidArgumentError(
            f"{surplus} more raw contents came than there are inputs without contents"
        )
    return contents


def _encode(tensor: InputTensor) -> bytes:
    """Give typed contents in their raw form."""
    name, datatype = tensor.name, tensor.datatype
    field = _TYPED_FIELDS.get(datatype)
    if field is None:
        if datatype in ITEM_BYTES:
            raise InvalidArgumentError(
                f"input {name!r}: {datatype} has no typed contents; send it as raw contents"
            )
        raise InvalidArgumentError(f"input {name!r}: {datatype!r} is no data type")
    wrong = [other.name for other, _ in tensor.contents.ListFields() if other.name != field]
    if wrong:
        raise InvalidArgumentError(
            f"input {name!r}: {datatype} belongs into {field}, not into {', '.join(wrong)}"
        )
    values = getattr(tensor.contents, field)
    # Before any work is done: a mistake must not cost other callers their time.
    if len(values) != (expected := math.prod(tensor.shape)):
        raise InvalidArgumentError(
            f"input {name!r}: shape {[*tensor.shape]} has {expected} elements, "
            f"but {len(values)} came"
        )
    if len(values) > ITEMS_LIMIT:
        raise InvalidArgumentError(
            f"input {name!r}: {len(values)} typed elements; the limit is {ITEMS_LIMIT}, "
            "send more than that as raw contents"
        )
    if datatype == BYTES:
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    kind, carried = _NUMPY_TYPES[datatype], _FIELD_TYPES.get(field)
    array = np.array(values, carried or kind)
    if carried is not None and array.size and kind is not None:
        limits = np.iinfo(kind)
        if array.min() < limits.min or array.max() > limits.max:
            raise InvalidArgumentError(
                f"input {name!r}: a value lies outside {datatype}'s {limits.min} to {limits.max}"
            )
    return array.astype(kind).tobytes()


def count_strings(raw: bytes, limit: int) -> int | None:
    """Count length-prefixed strings, up to one more than `limit`; None if the last is cut off."""
    position, count = 0, 0
    while position < len(raw):
        if count > limit:
            return count
        position += 4 + int.from_bytes(raw[position : position + 4], "little")
        count += 1
    return count if position == len(raw) else None
