"""What of a request is not contents, before it is decoded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_frontend.wire import FIELDS_MOST, HEAD_LIMIT_BYTES, check_head
from tritonclient.grpc import service_pb2

from paldia.core.errors import InvalidArgumentError, PaldiaError, TooLargeError

LARGE = HEAD_LIMIT_BYTES + 1


def request(**fields: Any) -> Any:
    return service_pb2.ModelInferRequest(model_name="m", id="1", **fields)


def raw(message: Any) -> None:
    message.inputs.add(name="x", datatype="INT8", shape=[1, LARGE])
    message.raw_input_contents.append(bytes(LARGE))


def typed(message: Any) -> None:
    tensor = message.inputs.add(name="x", datatype="INT32", shape=[1, LARGE])
    tensor.contents.int_contents.extend([300] * LARGE)


def strings(message: Any) -> None:
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    tensor.contents.bytes_contents.extend([bytes(LARGE), b""])


@pytest.mark.parametrize("fill", [raw, typed, strings])
def test_contents_may_be_large(fill: Any) -> None:
    message = request()
    fill(message)
    message.parameters["p"].double_param = 0.5
    message.outputs.add(name="y")
    assert message.ByteSize() > HEAD_LIMIT_BYTES
    check_head(message.SerializeToString())


def name(message: Any) -> None:
    message.model_name = "m" * LARGE


def parameter(message: Any) -> None:
    message.parameters["p"].string_param = "p" * LARGE


def inner_parameter(message: Any) -> None:
    message.inputs.add().parameters["p"].string_param = "p" * LARGE


def shape(message: Any) -> None:
    message.inputs.add().shape.extend([1] * LARGE)


def nothings(message: Any) -> None:
    message.inputs.extend([message.InferInputTensor()] * LARGE)


def empty_contents(message: Any) -> None:
    message.raw_input_contents.extend([b""] * LARGE)


def outputs(message: Any) -> None:
    message.outputs.extend([message.InferRequestedOutputTensor(name="y")] * LARGE)


@pytest.mark.parametrize(
    "fill", [name, parameter, inner_parameter, shape, nothings, empty_contents, outputs]
)
def test_nothing_else_may(fill: Any) -> None:
    message = request()
    fill(message)
    with pytest.raises(TooLargeError, match="names, shapes"):
        check_head(message.SerializeToString())
    # Nor beside contents.
    typed(message)
    with pytest.raises(TooLargeError):
        check_head(message.SerializeToString())


def test_only_so_many_fields_are_looked_at() -> None:
    message = request()
    raw(message)
    message.outputs.extend([message.InferRequestedOutputTensor(name="y")] * (FIELDS_MOST - 7))
    check_head(message.SerializeToString())
    message.outputs.add()
    with pytest.raises(TooLargeError, match="4096"):
        check_head(message.SerializeToString())


def test_large_nonsense_is_refused_and_small_left_to_the_decoder() -> None:
    for start in (b"\xff" * 20, b"\x2b", b"\x2a\xff\xff\xff\x7f", b"\x3a"):
        with pytest.raises(InvalidArgumentError):
            check_head(bytes([0x08, 0x01]) + start + b"\xff" * LARGE)
        check_head(start)


@given(st.binary(max_size=400), st.booleans())
def test_it_never_stumbles(noise: bytes, at_start: bool) -> None:
    contents = b"\x3a\x81\x80\x10" + bytes(LARGE)
    try:
        check_head(noise + contents if at_start else contents + noise)
    except PaldiaError:
        return


@given(st.integers(1, 64), st.integers(0, 9))
def test_a_padded_length_is_read_right(size: int, padding: int) -> None:
    # The decoder takes lengths with more bytes than they need: so must this.
    digits = [size & 0x7F, *[0] * min(padding, 4)]
    length = bytes(digit | 0x80 for digit in digits[:-1]) + bytes(digits[-1:])
    message = b"\x3a" + length + bytes(size)
    assert service_pb2.ModelInferRequest.FromString(message).raw_input_contents == [bytes(size)]
    large = message + request(raw_input_contents=[bytes(LARGE)]).SerializeToString()
    check_head(large)
