"""Merged answers are byte for byte what each caller would have got alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_frontend.merging import NotBatchedError, merge, split
from tritonclient.grpc import service_pb2

_WIDTHS = {"INT8": 1, "FP16": 2, "BF16": 2, "FP32": 4, "INT64": 8}


@st.composite
def batches(draw: st.DrawFn) -> list[Any]:
    """Draw like requests: the same tensors, any number of rows each."""
    tensors = draw(
        st.lists(
            st.tuples(
                st.sampled_from([*_WIDTHS, "BYTES"]),
                st.lists(st.integers(0, 3), max_size=2),
            ),
            min_size=1,
            max_size=3,
        )
    )
    messages = []
    for number, rows in enumerate(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))):
        message = service_pb2.ModelInferRequest(model_name="m", id=f"id-{number}")
        for index, (datatype, dims) in enumerate(tensors):
            message.inputs.add(name=f"t{index}", datatype=datatype, shape=[rows, *dims])
            items = rows * math.prod(dims)
            if datatype == "BYTES":
                texts = draw(st.lists(st.binary(max_size=5), min_size=items, max_size=items))
                raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            else:
                size = items * _WIDTHS[datatype]
                raw = draw(st.binary(min_size=size, max_size=size))
            message.raw_input_contents.append(raw)
        messages.append(message)
    return messages


def echo(request: Any) -> Any:
    """Answer as a row-wise model would: each output is an input."""
    response = service_pb2.ModelInferResponse(model_name="m", model_version="1", id=request.id)
    response.parameters["note"].string_param = "kept"
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(raw)
    return response


@given(batches())
def test_each_caller_gets_what_it_would_have_got_alone(messages: list[Any]) -> None:
    rows = [message.inputs[0].shape[0] for message in messages]
    ranks = {tensor.name: len(tensor.shape) for tensor in messages[0].inputs}
    answers = split(echo(merge(messages)), rows, [message.id for message in messages], ranks)
    for message, answer in zip(messages, answers, strict=True):
        assert answer == echo(message)


def test_merging_leaves_the_callers_messages_alone() -> None:
    message = service_pb2.ModelInferRequest(model_name="m", id="a")
    message.inputs.add(name="x", datatype="INT8", shape=[1, 1])
    message.raw_input_contents.append(b"a")
    before = message.SerializeToString()
    merge([message, message])
    assert message.SerializeToString() == before


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", [1, 1], np.zeros(1, np.float32).tobytes()),
        ("FP32", [], b""),
        ("FP32", [2, 1], b"12345"),
        ("FP32", [2], np.zeros(2, np.float32).tobytes()),
        ("FP32", [2, 1, 1], np.zeros(2, np.float32).tobytes()),
        ("BYTES", [2, 1], b"\x09\0\0\0abc"),
        ("BYTES", [2, 1], b"\0\0\0\0"),
        ("BYTES", [2, 1 << 60], b"\0\0\0\0" * 2),
    ],
)
def test_an_answer_without_a_row_for_each_is_not_split(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="y", datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
    with pytest.raises(NotBatchedError):
        split(response, [1, 1], ["a", "b"], {"y": 2})


def test_an_output_that_the_config_does_not_have_is_not_split() -> None:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="y", datatype="INT8", shape=[2, 1])
    response.raw_output_contents.append(b"ab")
    assert len(split(response, [1, 1], ["a", "b"], {"y": 2})) == 2
    with pytest.raises(NotBatchedError):
        split(response, [1, 1], ["a", "b"], {})
