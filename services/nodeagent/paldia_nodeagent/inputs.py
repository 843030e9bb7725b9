"""Requests to measure a model with, made from its configuration.

A model that wants meaningful inputs says so as Triton has it, with `model_warmup`; its
first sample is used. Otherwise floats are random, everything else is zero and text is
short, with every open dimension 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.core.errors import InvalidArgumentError
from paldia_nodeagent.repository import ModelConfig

_TEXT = b"paldia"
# One that callers hardly pick.
_SEQUENCE_ID = (1 << 62) + 8101
_ELEMENTS_MOST = 16 << 20
_NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    # No numpy type, but as wide; only ever zero here.
    "BF16": np.uint16,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One item's worth of an input: `shape` without the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def sample_item(config: ModelConfig, artifact: Path, random: np.random.Generator) -> list[Tensor]:
    """Make the inputs of one item.

    Args:
        config: the model's configuration as Triton completed it.
        artifact: the model's folder, for input files under `warmup/`.
        random: where random data comes from.

    Raises:
        InvalidArgumentError: a warm-up file is missing, or a type is unknown.
    """
    if config.model_warmup:
        sample = config.model_warmup[0]
        return [
            _warmup_tensor(name, sample.inputs[name], artifact, random)
            for name in sorted(sample.inputs)
        ]
    return [
        _made_tensor(item.name, _datatype(item.data_type), _closed(item.dims), random)
        for item in config.input
        if not item.optional
    ]


def make_request(model: str, config: ModelConfig, item: list[Tensor], batch: int) -> Any:
    """Make a ModelInferRequest of `batch` times the same item.

    A model without batches (`max_batch_size` 0) gets the item alone.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    for tensor in item:
        shape = (batch, *tensor.shape) if config.max_batch_size > 0 else tensor.shape
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(
            tensor.raw * batch if config.max_batch_size > 0 else tensor.raw
        )
    if config.HasField("sequence_batching"):
        # A sequence of one request.
        request.parameters["sequence_id"].int64_param = _SEQUENCE_ID
        request.parameters["sequence_start"].bool_param = True
        request.parameters["sequence_end"].bool_param = True
    return request


def smallest_request(model: str, config: ModelConfig, artifact: Path) -> Any | None:
    """Make a request that costs least, to see whether the model answers; None if none can be."""
    try:
        item = sample_item(config, artifact, np.random.default_rng(0))
    except InvalidArgumentError:
        return None
    return make_request(model, config, item, 1)


def batch_sizes(model_limit: int, task_limit: int) -> list[int]:
    """Give the batch sizes to measure: powers of two, and the limit itself.

    Args:
        model_limit: the model's `max_batch_size`; 0 for a model without batches.
        task_limit: the most that is asked for; 0 for no limit.
    """
    limit = min(model_limit, task_limit) if task_limit > 0 else model_limit
    if limit <= 1:
        return [1]
    sizes = [2**power for power in range(limit.bit_length())]
    return sizes if sizes[-1] == limit else [*sizes, limit]


def _datatype(data_type: int) -> str:
    name: str = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _closed(dims: Any) -> tuple[int, ...]:
    return tuple(dim if dim >= 0 else 1 for dim in dims)


def _warmup_tensor(name: str, given: Any, artifact: Path, random: np.random.Generator) -> Tensor:
    datatype, shape = _datatype(given.data_type), _closed(given.dims)
    match given.WhichOneof("input_data_type"):
        case "input_data_file":
            path = artifact / "warmup" / given.input_data_file
            if not path.is_file():
                raise InvalidArgumentError(
                    f"model_warmup names {given.input_data_file}, which isn't in the model's "
                    "warmup folder"
                )
            return Tensor(name, datatype, shape, path.read_bytes())
        case "random_data" if datatype not in ("BYTES", "BOOL", "BF16"):
            if datatype.startswith("FP"):
                return _made_tensor(name, datatype, shape, random)
            # As Triton has it: any bits there can be.
            size_bytes = math.prod(shape) * np.dtype(_NUMPY[datatype]).itemsize
            return Tensor(name, datatype, shape, random.bytes(size_bytes))
        case "zero_data" if datatype != "BYTES":
            return Tensor(name, datatype, shape, np.zeros(shape, _NUMPY[datatype]).tobytes())
    return _made_tensor(name, datatype, shape, random)


def _made_tensor(
    name: str, datatype: str, shape: tuple[int, ...], random: np.random.Generator
) -> Tensor:
    if math.prod(shape) > _ELEMENTS_MOST:
        raise InvalidArgumentError(
            f"input {name} of shape {[*shape]} is too large to measure with; give a smaller one "
            "in model_warmup"
        )
    if datatype == "BYTES":
        element = len(_TEXT).to_bytes(4, "little") + _TEXT
        return Tensor(name, datatype, shape, element * math.prod(shape))
    if datatype not in _NUMPY:
        raise InvalidArgumentError(f"input {name} has a type that can't be made up: {datatype}")
    if datatype.startswith("FP"):
        return Tensor(
            name, datatype, shape, random.random(shape).astype(_NUMPY[datatype]).tobytes()
        )
    return Tensor(name, datatype, shape, np.zeros(shape, _NUMPY[datatype]).tobytes())
