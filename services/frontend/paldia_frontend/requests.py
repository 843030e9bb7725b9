"""Checks a request against its model's config, before it can spoil a batch.

Pure. What leaves here has raw contents only and can be merged with every request of an
equal key. Errors say which tensor, what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.core.errors import InvalidArgumentError, UnsupportedError
from paldia_frontend.tensors import (
    BYTES,
    ITEM_BYTES,
    ITEMS_LIMIT,
    SHARED_MEMORY,
    count_strings,
    raw_contents,
)

ModelConfig = Any
InferRequest = Any
InputTensor = Any

# What may differ between requests of one batch: the tightest timeout holds for all.
_OWN_PARAMETERS = ("priority", "timeout")
_PARAMETERS_MOST = 256
SEQUENCE_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class Normalised:
    """A request that is known to be right.

    Attributes:
        message: with raw contents only; the caller's own message where it was so already.
        rows: size of its batch, 1 for models that don't batch.
        like_key: requests with equal keys may share a batch; None for never.
        size_bytes: of its tensors.
        priority: 1 is first, 0 the middle.
        timeout_s: longest time in queues that its caller allows, None for any.
        sequence_id: of the sequence it belongs to, None if it belongs to none.
    """

    message: InferRequest
    rows: int
    like_key: Hashable | None
    size_bytes: int
    priority: int
    timeout_s: float | None
    sequence_id: str | int | None


def read_request(message: bytes) -> InferRequest:
    """Read a request.

    Raises:
        InvalidArgumentError: it can't be.
    """
    try:
        return service_pb2.ModelInferRequest.FromString(message)
    except DecodeError as error:
        raise InvalidArgumentError(f"the request can't be decoded: {error}") from error


def normalise(request: InferRequest, config: ModelConfig) -> Normalised:
    """Check a request and give it with raw contents.

    Raises:
        InvalidArgumentError: it doesn't fit the model.
        UnsupportedError: it refers to memory that a proxy can't reach.
    """
    if not request.inputs:
        raise InvalidArgumentError("the request has no inputs")
    contents = raw_contents(request)
    _check_names(request.inputs, config)
    declared = {tensor.name: tensor for tensor in config.input}
    rows, first = 1, ""
    for tensor, raw in zip(request.inputs, contents, strict=True):
        batch = _check_tensor(tensor, raw, declared[tensor.name], config)
        if batch is None:
            continue
        if first and batch != rows:
            raise InvalidArgumentError(
                f"input {tensor.name!r}: batch of {batch}, but {first!r} has a batch of {rows}"
            )
        rows, first = batch, tensor.name
    _check_outputs(request.outputs, config)
    _check_parameters(request)
    sequence_id = _parameter(request, "sequence_id", (int, str), None)
    return Normalised(
        message=_with_raw(request, contents),
        rows=rows,
        like_key=None if sequence_id else _like_key(request, config),
        size_bytes=sum(map(len, contents)),
        priority=_parameter(request, "priority", (int,), 0),
        timeout_s=_timeout_s(request),
        sequence_id=sequence_id or None,
    )


def _check_parameters(request: InferRequest) -> None:
    """Keep what is compared with other requests' to a size that takes no time."""
    for holder in (request, *request.inputs, *request.outputs):
        if len(holder.parameters) > _PARAMETERS_MOST:
            raise InvalidArgumentError(
                f"{len(holder.parameters)} parameters; the limit is {_PARAMETERS_MOST} in one place"
            )


def _check_names(tensors: Sequence[InputTensor], config: ModelConfig) -> None:
    declared = [tensor.name for tensor in config.input]
    given = [tensor.name for tensor in tensors]
    for name in given:
        if name not in declared:
            raise InvalidArgumentError(
                f"unknown input {name!r}; the model has {', '.join(map(repr, declared))}"
            )
        if given.count(name) > 1:
            raise InvalidArgumentError(f"input {name!r} is given twice")
    missing = [t.name for t in config.input if t.name not in given and not t.optional]
    if missing:
        raise InvalidArgumentError(f"missing input {', '.join(map(repr, missing))}")


def _check_tensor(
    tensor: InputTensor, raw: bytes, declared: Any, config: ModelConfig
) -> int | None:
    """Check one input; give the size of its batch, None for one that has none."""
    expected = _datatype(declared)
    if tensor.datatype != expected:
        raise InvalidArgumentError(
            f"input {tensor.name!r}: expected data type {expected}, not {tensor.datatype}"
        )
    batch, dims = _split_shape(tensor, declared, config)
    allowed = list(declared.dims)
    if not declared.is_shape_tensor and (
        len(dims) != len(allowed)
        or any(want not in (-1, got) for want, got in zip(allowed, dims, strict=True))
    ):
        batched = ["batch"] if config.max_batch_size > 0 else []
        raise InvalidArgumentError(
            f"input {tensor.name!r}: expected shape {_shown([*batched, *allowed])}, "
            f"not {_shown(tensor.shape)}"
        )
    _check_size(tensor, raw, math.prod(tensor.shape))
    return batch


def _split_shape(
    tensor: InputTensor, declared: Any, config: ModelConfig
) -> tuple[int | None, list[int]]:
    """Give the size of the batch, if it has one, and the other dimensions."""
    shape = list(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidArgumentError(
            f"input {tensor.name!r}: a shape has no negative sizes, as in {_shown(shape)}"
        )
    if config.max_batch_size == 0 or declared.is_shape_tensor:
        return None, shape
    if not shape or shape[0] < 1:
        raise InvalidArgumentError(
            f"input {tensor.name!r}: the first dimension is the batch and is at least 1, "
            f"but the shape is {_shown(shape)}"
        )
    if shape[0] > config.max_batch_size:
        raise InvalidArgumentError(
            f"input {tensor.name!r}: a batch of {shape[0]}; the model takes at most "
            f"{config.max_batch_size}"
        )
    return shape[0], shape[1:]


def _check_size(tensor: InputTensor, raw: bytes, elements: int) -> None:
    if tensor.datatype != BYTES:
        expected = elements * ITEM_BYTES[tensor.datatype]
        if len(raw) != expected:
            raise InvalidArgumentError(
                f"input {tensor.name!r}: shape {_shown(tensor.shape)} of {tensor.datatype} is "
                f"{expected} bytes, not {len(raw)}"
            )
        return
    if elements > ITEMS_LIMIT:
        raise InvalidArgumentError(
            f"input {tensor.name!r}: {elements} strings; the limit is {ITEMS_LIMIT} in one tensor"
        )
    found = count_strings(raw, elements)
    if found != elements:
        came = "the last one is cut off" if found is None else f"{found} came"
        raise InvalidArgumentError(
            f"input {tensor.name!r}: shape {_shown(tensor.shape)} of BYTES is {elements} strings, "
            f"each after its length in 4 bytes, but {came}"
        )


def _check_outputs(outputs: Sequence[Any], config: ModelConfig) -> None:
    declared = [tensor.name for tensor in config.output]
    wanted = [output.name for output in outputs]
    for output in outputs:
        if output.name not in declared:
            raise InvalidArgumentError(
                f"unknown output {output.name!r}; the model has {', '.join(map(repr, declared))}"
            )
        if wanted.count(output.name) > 1:
            raise InvalidArgumentError(f"output {output.name!r} is asked for twice")
        if SHARED_MEMORY in output.parameters:
            raise UnsupportedError(
                f"output {output.name!r} is wanted in shared memory, which doesn't reach "
                "through a proxy; take it from the answer"
            )


def _parameter(request: InferRequest, name: str, kinds: tuple[type, ...], default: Any) -> Any:
    if name not in request.parameters:
        return default
    parameter = request.parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, choice) if choice else None
    if isinstance(value, bool) or not isinstance(value, kinds):
        expected = " or ".join("text" if kind is str else "a whole number" for kind in kinds)
        raise InvalidArgumentError(f"parameter {name!r} must be {expected}, not {value!r}")
    return value


def _timeout_s(request: InferRequest) -> float | None:
    micros = _parameter(request, "timeout", (int,), 0)
    if micros < 0:
        raise InvalidArgumentError(f"parameter 'timeout' is in microseconds, not {micros}")
    return micros / 1e6 if micros else None


def _with_raw(request: InferRequest, contents: list[bytes]) -> InferRequest:
    if not any(tensor.HasField("contents") for tensor in request.inputs):
        return request
    message = service_pb2.ModelInferRequest()
    message.CopyFrom(request)
    for tensor in message.inputs:
        tensor.ClearField("contents")
    message.raw_input_contents[:] = contents
    return message


def _like_key(request: InferRequest, config: ModelConfig) -> Hashable | None:
    """Give what requests of one batch must have in common; None for never merged."""
    if (
        config.max_batch_size <= 1
        or config.model_transaction_policy.decoupled
        or any("classification" in output.parameters for output in request.outputs)
        or any(name in request.parameters for name in SEQUENCE_PARAMETERS)
    ):
        return None
    return (
        tuple((t.name, t.datatype, *t.shape[1:], _encoded(t.parameters)) for t in request.inputs),
        tuple((output.name, _encoded(output.parameters)) for output in request.outputs),
        _encoded(request.parameters),
    )


def _encoded(parameters: Any) -> tuple[tuple[str, bytes], ...]:
    return tuple(
        (name, parameters[name].SerializeToString(deterministic=True))
        for name in sorted(parameters)
        if name not in _OWN_PARAMETERS
    )


def _datatype(declared: Any) -> str:
    name: str = model_config_pb2.DataType.Name(declared.data_type).removeprefix("TYPE_")
    return BYTES if name == "STRING" else name


def _shown(shape: Sequence[object]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
