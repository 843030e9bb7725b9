"""Makes one request of many like ones, and many answers of one. Pure and exact.

Only requests with equal keys (`requests.Normalised.like_key`) may be merged: they have
the same tensors in the same order, so rows can be laid end to end byte by byte.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tritonclient.grpc import service_pb2

InferRequest = Any
InferResponse = Any
OutputTensor = Any


class NotBatchedError(Exception):
    """The answer's tensors don't have one row for each row asked: it can't be split."""


def merge(messages: Sequence[InferRequest]) -> InferRequest:
    """Give one request with the rows of all, in order; a single one is given back as it is."""
    if len(messages) == 1:
        return messages[0]
    first = messages[0]
    merged = service_pb2.ModelInferRequest(
        model_name=first.model_name, model_version=first.model_version, outputs=first.outputs
    )
    for name, parameter in first.parameters.items():
        merged.parameters[name].CopyFrom(parameter)
    for index, tensor in enumerate(first.inputs):
        joined = merged.inputs.add()
        joined.CopyFrom(tensor)
        joined.shape[0] = sum(message.inputs[index].shape[0] for message in messages)
        merged.raw_input_contents.append(
            b"".join(message.raw_input_contents[index] for message in messages)
        )
    return merged


def has_rows(response: InferResponse, rows: int, ranks: Mapping[str, int]) -> bool:
    """Whether every output has a row for each row asked, and as many dimensions as it should.

    `ranks` are those of the model's config, by name. An output without the batch dimension may
    have as many rows as were asked by chance, but not for every number of rows.
    """
    return all(
        len(tensor.shape) == ranks.get(tensor.name) and tensor.shape[0] == rows
        for tensor in response.outputs
    )


def split(
    response: InferResponse, rows: Sequence[int], ids: Sequence[str], ranks: Mapping[str, int]
) -> list[InferResponse]:
    """Give each caller its rows of a merged answer, under its own id.

    Raises:
        NotBatchedError: an output doesn't have as many rows as were asked.
    """
    total = sum(rows)
    if not has_rows(response, total, ranks):
        shapes = ", ".join(f"{it.name} {[*it.shape]}" for it in response.outputs)
        raise NotBatchedError(f"an output does not have {total} rows: {shapes}")
    if len(response.outputs) != len(response.raw_output_contents):
        raise NotBatchedError("an output has no raw contents")
    pieces = [
        _cut(tensor, raw, rows, total)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    ]
    answers = []
    for index, (count, own_id) in enumerate(zip(rows, ids, strict=True)):
        answer = service_pb2.ModelInferResponse(
            model_name=response.model_name, model_version=response.model_version, id=own_id
        )
        for name, parameter in response.parameters.items():
            answer.parameters[name].CopyFrom(parameter)
        for tensor, cuts in zip(response.outputs, pieces, strict=True):
            own = answer.outputs.add()
            own.CopyFrom(tensor)
            own.shape[0] = count
            answer.raw_output_contents.append(cuts[index])
        answers.append(answer)
    return answers


def _cut(tensor: OutputTensor, raw: bytes, rows: Sequence[int], total: int) -> list[bytes]:
    """Cut one output's bytes into each caller's rows."""
    if tensor.datatype == "BYTES":
        ends = _row_ends(raw, math.prod(tensor.shape[1:]), total)
    else:
        width, rest = divmod(len(raw), total)
        if rest:
            raise NotBatchedError(f"{tensor.name} has {len(raw)} bytes for {total} rows")
        ends = [width * row for row in range(total + 1)]
    bounds = [ends[row] for row in itertools.accumulate(rows, initial=0)]
    return [raw[start:end] for start, end in itertools.pairwise(bounds)]


def _row_ends(raw: bytes, strings_a_row: int, total: int) -> list[int]:
    """Give where each row of length-prefixed strings ends, beginning with 0."""
    ends, position = [0], 0
    # Each string has a length of 4 bytes: what can't be there isn't looked for.
    if strings_a_row * total * 4 <= len(raw):
        for _ in range(total):
            for _ in range(strings_a_row):
                position += 4 + int.from_bytes(raw[position : position + 4], "little")
            ends.append(position)
    if position != len(raw) or len(ends) != total + 1:
        raise NotBatchedError(f"{len(raw)} bytes don't hold {total} rows of strings")
    return ends
