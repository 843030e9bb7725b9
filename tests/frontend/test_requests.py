"""What a request must be to reach Triton, and what is said when it isn't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from paldia_frontend.requests import normalise
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.core.errors import InvalidArgumentError, UnsupportedError


def config(text: str = "") -> Any:
    return text_format.Parse(
        text
        or """
        name: "m" max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: [3] }
        input { name: "s" data_type: TYPE_STRING dims: [-1] optional: true }
        output { name: "y" data_type: TYPE_FP32 dims: [3] }
        """,
        model_config_pb2.ModelConfig(),
    )


def request(rows: int = 1) -> Any:
    message = service_pb2.ModelInferRequest(model_name="m", id="7")
    message.inputs.add(name="x", datatype="FP32", shape=[rows, 3])
    message.raw_input_contents.append(np.zeros((rows, 3), np.float32).tobytes())
    message.outputs.add(name="y")
    return message


def add_strings(message: Any, shape: list[int], raw: bytes) -> None:
    message.inputs.add(name="s", datatype="BYTES", shape=shape)
    message.raw_input_contents.append(raw)


def test_a_right_request_passes_as_it_is() -> None:
    message = request(rows=3)
    normal = normalise(message, config())
    assert normal.message is message
    assert (normal.rows, normal.size_bytes, normal.priority) == (3, 36, 0)
    assert normal.timeout_s is None
    assert normal.sequence_id is None


def test_typed_contents_become_raw_in_the_order_of_inputs() -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="s", datatype="BYTES", shape=[1, 2]).contents.bytes_contents[:] = [
        b"a",
        b"",
    ]
    message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.array([1, 2, 3], np.float32).tobytes())
    normal = normalise(message, config())
    assert normal.message.raw_input_contents[0] == b"\x01\0\0\0a\0\0\0\0"
    assert normal.message.raw_input_contents[1] == message.raw_input_contents[0]
    assert not any(tensor.HasField("contents") for tensor in normal.message.inputs)
    assert message.inputs[0].HasField("contents"), "the caller's message is left alone"


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("FP32", "fp32_contents", [1.5, -0.25]),
        ("FP64", "fp64_contents", [1e300, -0.1]),
    ],
)
def test_every_typed_form_keeps_its_values(datatype: str, field: str, values: list[Any]) -> None:
    message = service_pb2.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, field)[:] = values
    model = config(
        f'input {{ name: "x" data_type: TYPE_{datatype} dims: [2] }}'
        'output { name: "y" data_type: TYPE_FP32 dims: [1] }'
    )
    kinds = {"BOOL": np.bool_, "FP32": np.float32, "FP64": np.float64}
    kind = kinds.get(datatype) or np.dtype(datatype.lower())
    raw = normalise(message, model).message.raw_input_contents[0]
    assert np.frombuffer(raw, kind).tolist() == values


def _unknown_input(message: Any) -> None:
    message.inputs[0].name = "z"


def _twice(message: Any) -> None:
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


def _nothing(message: Any) -> None:
    message.Clear()


def _only_optional(message: Any) -> None:
    del message.inputs[:], message.raw_input_contents[:]
    add_strings(message, [1, 0], b"")


def _datatype(message: Any) -> None:
    message.inputs[0].datatype = "FP64"


def _nonsense_type(message: Any) -> None:
    message.inputs[0].datatype = "FP32 "


def _dims(message: Any) -> None:
    message.inputs[0].shape[1] = 2


def _rank(message: Any) -> None:
    message.inputs[0].shape[:] = [3]


def _negative(message: Any) -> None:
    message.inputs[0].shape[:] = [1, -3]


def _empty_batch(message: Any) -> None:
    message.inputs[0].shape[0] = 0
    message.raw_input_contents[0] = b""


def _large_batch(message: Any) -> None:
    message.CopyFrom(request(rows=5))


def _short(message: Any) -> None:
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]


def _no_contents(message: Any) -> None:
    del message.raw_input_contents[:]


def _surplus(message: Any) -> None:
    message.raw_input_contents.append(b"x")


def _absurd_shape(message: Any) -> None:
    message.inputs[0].shape[:] = [4, 2**62]


def _cut_string(message: Any) -> None:
    add_strings(message, [1, 1], b"\x05\0\0\0abc")


def _string_count(message: Any) -> None:
    add_strings(message, [1, 3], b"\x01\0\0\0a")


def _different_batches(message: Any) -> None:
    add_strings(message, [2, 1], b"\0\0\0\0" * 2)


def _unknown_output(message: Any) -> None:
    message.outputs[0].name = "q"


def _output_twice(message: Any) -> None:
    message.outputs.add(name="y")


def _text_priority(message: Any) -> None:
    message.parameters["priority"].string_param = "high"


def _negative_timeout(message: Any) -> None:
    message.parameters["timeout"].int64_param = -1


def _wrong_field(message: Any) -> None:
    del message.raw_input_contents[:]
    message.inputs[0].contents.int_contents[:] = [1, 2, 3]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_unknown_input, ["'z'", "'x'"]),
        (_twice, ["'x'", "twice"]),
        (_nothing, ["no inputs"]),
        (_only_optional, ["missing input 'x'"]),
        (_datatype, ["'x'", "FP32", "FP64"]),
        (_nonsense_type, ["'x'", "FP32"]),
        (_dims, ["'x'", "[batch, 3]", "[1, 2]"]),
        (_rank, ["'x'", "[batch, 3]", "[3]"]),
        (_negative, ["'x'", "[1, -3]"]),
        (_empty_batch, ["'x'", "at least 1"]),
        (_large_batch, ["batch of 5", "at most 4"]),
        (_short, ["'x'", "12 bytes", "11"]),
        (_no_contents, ["'x'", "no contents"]),
        (_surplus, ["1 more"]),
        (_absurd_shape, ["'x'"]),
        (_cut_string, ["'s'", "cut off"]),
        (_string_count, ["'s'", "3 strings", "1 came"]),
        (_different_batches, ["'s'", "batch of 2"]),
        (_unknown_output, ["'q'", "'y'"]),
        (_output_twice, ["'y'", "twice"]),
        (_text_priority, ["priority", "whole number"]),
        (_negative_timeout, ["timeout", "-1"]),
        (_wrong_field, ["'x'", "fp32_contents", "int_contents"]),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    spoil: Callable[[Any], None], words: list[str]
) -> None:
    message = request()
    spoil(message)
    with pytest.raises(InvalidArgumentError) as error:
        normalise(message, config())
    for word in words:
        assert word in str(error.value)


def test_a_value_outside_its_type_is_refused_not_wrapped() -> None:
    message = service_pb2.ModelInferRequest()
    message.inputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents[:] = [300]
    model = config('input { name: "x" data_type: TYPE_INT8 dims: [1] }')
    with pytest.raises(InvalidArgumentError, match="-128 to 127"):
        normalise(message, model)


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_shared_memory_is_refused(where: str) -> None:
    message = request()
    getattr(message, where)[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(UnsupportedError, match="shared memory"):
        normalise(message, config())


def _id(message: Any) -> None:
    message.id = "other"


def _priority(message: Any) -> None:
    message.parameters["priority"].int64_param = 1


def _timeout(message: Any) -> None:
    message.parameters["timeout"].int64_param = 5000


def _parameter(message: Any) -> None:
    message.parameters["temperature"].double_param = 0.5


def _no_outputs(message: Any) -> None:
    del message.outputs[:]


def _with_strings(message: Any) -> None:
    add_strings(message, [1, 1], b"\0\0\0\0")


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        (_id, True),
        (_priority, True),
        (_timeout, True),
        (lambda message: message.CopyFrom(request(rows=2)), True),
        (_parameter, False),
        (_no_outputs, False),
        (_with_strings, False),
    ],
)
def test_only_like_requests_share_a_key(change: Callable[[Any], None], alike: bool) -> None:
    first, second = request(), request()
    change(second)
    keys = [normalise(message, config()).like_key for message in (first, second)]
    assert None not in keys
    assert (keys[0] == keys[1]) is alike


def test_priority_and_timeout_are_read() -> None:
    message = request()
    _priority(message)
    _timeout(message)
    normal = normalise(message, config())
    assert (normal.priority, normal.timeout_s) == (1, 0.005)


def test_what_must_not_merge_has_no_key() -> None:
    sequence = request()
    sequence.parameters["sequence_id"].int64_param = 9
    sequence.parameters["sequence_start"].bool_param = True
    normal = normalise(sequence, config())
    assert (normal.like_key, normal.sequence_id) == (None, 9)
    classified = request()
    classified.outputs[0].parameters["classification"].int64_param = 2
    assert normalise(classified, config()).like_key is None
    unbatched = config()
    unbatched.max_batch_size = 0
    unbatched.input[0].dims[:] = [1, 3]
    normal = normalise(request(), unbatched)
    assert (normal.like_key, normal.rows) == (None, 1)
    decoupled = config()
    decoupled.model_transaction_policy.decoupled = True
    assert normalise(request(), decoupled).like_key is None


def test_a_wrong_number_of_typed_elements_is_refused_before_they_are_encoded() -> None:
    message = service_pb2.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype="INT8", shape=[2])
    tensor.contents.int_contents[:] = [300]
    model = config('input { name: "x" data_type: TYPE_INT8 dims: [2] }')
    with pytest.raises(InvalidArgumentError, match="2 elements, but 1 came"):
        normalise(message, model)


def test_a_tensor_of_too_many_strings_is_refused() -> None:
    count = (1 << 20) + 1
    message = service_pb2.ModelInferRequest()
    message.inputs.add(name="s", datatype="BYTES", shape=[count])
    message.raw_input_contents.append(b"\0" * (4 * count))
    model = config('input { name: "s" data_type: TYPE_STRING dims: [-1] }')
    with pytest.raises(InvalidArgumentError, match="the limit is 1048576"):
        normalise(message, model)


def test_a_shape_tensor_has_no_batch_and_settles_none() -> None:
    model = config(
        """
        max_batch_size: 4
        input { name: "to" data_type: TYPE_INT32 dims: [2] is_shape_tensor: true }
        input { name: "x" data_type: TYPE_INT8 dims: [1] }
        output { name: "y" data_type: TYPE_INT8 dims: [-1] }
        """
    )
    for order in (("to", "x"), ("x", "to")):
        message = service_pb2.ModelInferRequest()
        for name in order:
            kind, shape, raw = {"to": ("INT32", [2], b"12345678"), "x": ("INT8", [3, 1], b"abc")}[
                name
            ]
            message.inputs.add(name=name, datatype=kind, shape=shape)
            message.raw_input_contents.append(raw)
        assert normalise(message, model).rows == 3


@pytest.mark.parametrize("where", ["request", "input", "output"])
def test_parameters_without_end_are_refused(where: str) -> None:
    message = request()
    holder = {"request": message, "input": message.inputs[0], "output": message.outputs[0]}[where]
    for number in range(257):
        holder.parameters[f"p{number}"].bool_param = True
    with pytest.raises(InvalidArgumentError, match="257 parameters; the limit is 256"):
        normalise(message, config())
