"""What is sent: requests encoded once each, from arrays, from a file, or made up.

A file holds one request or a list of them in the JSON form of the KServe V2 protocol:
`{"inputs": [{"name", "shape", "datatype", "data"}]}`, with `parameters` and `outputs` if wanted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from paldia.core.errors import InvalidArgumentError
from paldia.load.outcomes import Tags

TYPES: Mapping[str, str] = {
    **{"BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8"},
    **{"INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8"},
    **{"FP16": "f2", "FP32": "f4", "FP64": "f8"},
}
"""numpy's name of each type but text (BYTES) and BF16, which it doesn't know."""
FILE_LIMIT_BYTES = 1 << 30
RANDOM_VARIETY = 16
"""Different requests that are made up, unless they are large."""
RANDOM_LIMIT_BYTES = 64 << 20
_RANDOM_BELOW = 101
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", np.uint8)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input as it travels."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor as a model describes it; -1 in `shape` stands for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} [{','.join(map(str, self.shape))}]"


def tensor_of(name: str, array: NDArray[Any]) -> Tensor:
    """Encode an array whose type numpy knows."""
    return Tensor(name, np_to_triton_dtype(array.dtype), array.shape, _raw(array))


def _raw(array: NDArray[Any]) -> bytes:
    if array.dtype == np.object_:
        # It gives an array of one element, or of none.
        packed = serialize_byte_tensor(array)
        return bytes(packed.item()) if packed.size else b""
    return array.tobytes()


def encoded(
    model: str,
    tensors: Sequence[Tensor],
    parameters: Tags | None = None,
    outputs: Sequence[str] = (),
) -> bytes:
    """Encode a ModelInferRequest."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in (parameters or {}).items():
        # True is an int, too.
        kinds = ((bool, "bool_param"), (int, "int64_param"), (str, "string_param"))
        kind = next((kind for type_, kind in kinds if isinstance(value, type_)), "double_param")
        setattr(request.parameters[name], kind, value)
    return bytes(request.SerializeToString())


def encoded_arrays(model: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode a request of these inputs by name."""
    return encoded(model, [tensor_of(name, array) for name, array in arrays.items()])


def read_requests(path: Path, model: str) -> list[bytes]:
    """Read and encode the requests of a file.

    Raises:
        InvalidArgumentError: it can't be read, or isn't what was expected; the message names the
            request and the input.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"there is no file {path} to take inputs from")
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise InvalidArgumentError(f"{path} has over {FILE_LIMIT_BYTES >> 20} MiB; take fewer")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is no JSON: {error}") from None
    documents = found if isinstance(found, list) else [found]
    if not documents:
        raise InvalidArgumentError(f"{path} holds an empty list; give one request at least")
    return [
        _request(model, document, f"{path}, request {number}")
        for number, document in enumerate(documents, start=1)
    ]


def _request(model: str, document: Any, place: str) -> bytes:
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list) or not inputs:
        raise InvalidArgumentError(
            f'{place}: expected {{"inputs": [{{"name", "shape", "datatype", "data"}}, ...]}}'
        )
    parameters, outputs = document.get("parameters", {}), document.get("outputs", [])
    try:
        names = [str(output["name"]) for output in outputs]
        return encoded(model, [_tensor(it, place) for it in inputs], parameters, names)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{place}: {error!r}") from None


def _tensor(item: Any, place: str) -> Tensor:
    missing = [
        key
        for key in ("name", "shape", "datatype", "data")
        if not isinstance(item, dict) or key not in item
    ]
    if missing:
        raise InvalidArgumentError(f"{place}: an input has no {', '.join(missing)}")
    name, datatype = str(item["name"]), str(item["datatype"])
    shape = tuple(int(length) for length in item["shape"])
    try:
        raw, count = _encoded_data(item["data"], datatype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{place}: input {name} isn't {datatype}: {error}") from None
    if count != math.prod(shape) or min(shape, default=1) < 0:
        raise InvalidArgumentError(
            f"{place}: input {name} has {count} values, and its shape "
            f"{list(shape)} is for {math.prod(shape)}"
        )
    return Tensor(name, datatype, shape, raw)


def _encoded_data(data: Any, datatype: str) -> tuple[bytes, int]:
    """Give the bytes of numbers or texts, nested or not, and how many there are."""
    if datatype == "BYTES":
        texts = np.array(data, dtype=np.object_).ravel()
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("expected texts, in lists of equal length")
        return _raw(np.array([text.encode() for text in texts], dtype=np.object_)), len(texts)
    if datatype == "BF16":
        array = np.array(data, np.float32).ravel()
        return _bf16(array), len(array)
    if datatype not in TYPES:
        raise ValueError(f"known are {', '.join([*TYPES, 'BF16', 'BYTES'])}")
    given = np.array(data).ravel()
    array = given.astype(TYPES[datatype])
    if not datatype.startswith("FP") and not np.array_equal(given, array):
        raise ValueError("a value doesn't fit")
    return array.tobytes(), len(array)


def _bf16(array: NDArray[np.float32]) -> bytes:
    """Cut off the lower half of each number, as bfloat16 is the upper half of a float32."""
    return (array.view(np.uint32) >> 16).astype("<u2").tobytes()


def random_requests(
    model: str,
    wanted: Sequence[Wanted],
    shapes: Mapping[str, tuple[int, ...]],
    bytes_length: int,
    seed: int,
) -> list[bytes]:
    """Make up requests: whole numbers from 0 to 100, fractions from 0 to 1, lower-case text.

    Args:
        model: who is asked.
        wanted: its inputs; what has any length gets 1.
        shapes: for inputs that are to have another shape.
        bytes_length: bytes of each text.
        seed: of what is left to chance.

    Raises:
        InvalidArgumentError: a shape doesn't fit its input, or a type is unknown.
    """
    names = [spec.name for spec in wanted]
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise InvalidArgumentError(
            f"{model} has no input {', '.join(unknown)}; it has {', '.join(names)}"
        )
    dice = np.random.default_rng(seed)
    made: list[bytes] = []
    while len(made) < RANDOM_VARIETY and sum(map(len, made)) < RANDOM_LIMIT_BYTES:
        tensors = [_random(spec, shapes.get(spec.name), bytes_length, dice) for spec in wanted]
        made.append(encoded(model, tensors))
    return made


def _random(
    spec: Wanted, asked: tuple[int, ...] | None, bytes_length: int, dice: np.random.Generator
) -> Tensor:
    shape = asked or tuple(1 if length < 0 else length for length in spec.shape)
    fits = len(shape) == len(spec.shape) and all(
        length == any_ or any_ < 0 for length, any_ in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidArgumentError(f"shape {list(shape)} doesn't fit the input {spec}")
    count = math.prod(shape)
    if spec.datatype == "BYTES":
        texts = [dice.choice(_LETTERS, bytes_length).tobytes() for _ in range(count)]
        raw = _raw(np.array(texts, dtype=np.object_))
    elif spec.datatype == "BF16":
        raw = _bf16(dice.random(count, np.float32))
    elif spec.datatype not in TYPES:
        raise InvalidArgumentError(f"inputs of type {spec.datatype} can't be made up: {spec}")
    elif spec.datatype.startswith("FP"):
        raw = dice.random(count).astype(TYPES[spec.datatype]).tobytes()
    else:
        most = 2 if spec.datatype == "BOOL" else _RANDOM_BELOW
        raw = dice.integers(0, most, count).astype(TYPES[spec.datatype]).tobytes()
    return Tensor(spec.name, spec.datatype, shape, raw)
