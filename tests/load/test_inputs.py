import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import InferInput, InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from paldia.core.errors import InvalidArgumentError
from paldia.load.answers import Checker
from paldia.load.inputs import (
    TYPES,
    Wanted,
    encoded,
    encoded_arrays,
    random_requests,
    read_requests,
)

NUMBERS = [np.bool_, np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64]
shapes = arrays.array_shapes(max_dims=3, max_side=4)
numbers = st.sampled_from(NUMBERS).flatmap(
    lambda kind: arrays.arrays(
        kind,
        shapes,
        elements={"allow_nan": False, "allow_infinity": False}
        if np.dtype(kind).kind == "f"
        else None,
    )
)
texts = arrays.arrays(np.object_, shapes, elements=st.text(max_size=5).map(str.encode))


def _decoded(request: service_pb2.ModelInferRequest) -> dict[str, np.ndarray]:
    """Read a request's inputs by the stock client, as if they were outputs."""
    response = service_pb2.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    result = InferResult(response)
    return {tensor.name: result.as_numpy(tensor.name) for tensor in request.inputs}


def _parsed(encoded_request: bytes) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest.FromString(encoded_request)


@given(numbers | texts)
def test_arrays_travel_as_the_stock_client_sends_them(array: np.ndarray):
    request = _parsed(encoded_arrays("m", {"x": array}))
    stock = InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
    stock.set_data_from_numpy(array)
    assert request.model_name == "m"
    assert request.inputs[0].datatype == stock.datatype()
    assert list(request.inputs[0].shape) == stock.shape()
    assert request.raw_input_contents[0] == (stock._get_content() or b"")


@given(numbers)
def test_a_file_says_the_same_as_the_array(tmp_path_factory: Any, array: np.ndarray):
    path = tmp_path_factory.mktemp("inputs") / "one.json"
    datatype = np_to_triton_dtype(array.dtype)
    item = {"name": "x", "shape": array.shape, "datatype": datatype, "data": array.tolist()}
    path.write_text(json.dumps({"inputs": [item]}))
    assert read_requests(path, "m") == [encoded_arrays("m", {"x": array})]


def test_a_file_may_hold_several_with_texts_and_parameters(tmp_path: Path):
    path = tmp_path / "some.json"
    one = {"name": "t", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "ö"]}
    half = {"name": "h", "shape": [2], "datatype": "BF16", "data": [1.0, -2.0]}
    parameters = {"priority": 1, "who": "me", "sure": True, "share": 0.5}
    path.write_text(
        json.dumps(
            [
                {"inputs": [one], "parameters": parameters, "outputs": [{"name": "y"}]},
                {"inputs": [half]},
            ]
        )
    )
    first, second = map(_parsed, read_requests(path, "m"))
    assert _decoded(first)["t"].tolist() == [[b"a", "ö".encode()]]
    assert [output.name for output in first.outputs] == ["y"]
    kinds = {name: it.WhichOneof("parameter_choice") for name, it in first.parameters.items()}
    assert kinds == {
        "priority": "int64_param",
        "who": "string_param",
        "sure": "bool_param",
        "share": "double_param",
    }
    assert second.raw_input_contents[0] == b"\x80\x3f\x00\xc0"


INPUT = '{"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]}'


def _wrong(old: str, new: str) -> str:
    return f'{{"inputs": [{INPUT.replace(old, new)}]}}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON"),
        ("[]", "an empty list"),
        ("[1]", "request 1: expected"),
        ('{"inputs": []}', "request 1: expected"),
        ('{"inputs": [{"name": "x"}]}', "no shape, datatype, data"),
        (f'[{{"inputs": [{INPUT}]}}, {{"inputs": 3}}]', "request 2: expected"),
        (_wrong("[2]", "[3]"), "x has 2 values, and its shape"),
        (_wrong("INT32", "INT33"), "x isn't INT33: known are BOOL"),
        (_wrong("1,", "1.5,"), "x isn't INT32"),
        (_wrong("1,", "3000000000,"), "x isn't INT32"),
        (_wrong("INT32", "BYTES"), "x isn't BYTES: expected texts"),
        (_wrong("1,", '"a",'), "x isn't INT32"),
        (f'{{"inputs": [{INPUT}], "parameters": 3}}', "request 1: "),
        (f'{{"inputs": [{INPUT}], "outputs": [3]}}', "request 1: "),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match=reason) as raised:
        read_requests(path, "m")
    assert "\n" not in str(raised.value)
    with pytest.raises(InvalidArgumentError, match="there is no file"):
        read_requests(tmp_path / "missing.json", "m")


@pytest.mark.parametrize("datatype", [*TYPES, "BYTES", "BF16"])
def test_random_requests_are_of_the_type_and_shape(datatype: str):
    wanted = [Wanted("x", datatype, (-1, 3))]
    made = random_requests("m", wanted, {"x": (2, 3)}, bytes_length=5, seed=1)
    assert made == random_requests("m", wanted, {"x": (2, 3)}, bytes_length=5, seed=1)
    assert len(made) == 16
    assert len(set(made)) > 10
    for request in map(_parsed, made):
        array = _decoded(request)["x"]
        assert array.shape == (2, 3)
        if datatype == "BYTES":
            assert {len(text) for text in array.ravel()} == {5}
        elif datatype != "BF16":
            assert array.dtype == triton_to_np_dtype(datatype)
            assert (array >= 0).all()
            assert (array <= 100).all()
    (default, *_) = random_requests("m", wanted, {}, bytes_length=5, seed=1)
    assert list(_parsed(default).inputs[0].shape) == [1, 3]


def test_a_shape_that_does_not_fit_is_refused():
    wanted = [Wanted("x", "FP32", (-1, 3))]
    for shape in ((2, 4), (3,), (1, 2, 3)):
        with pytest.raises(InvalidArgumentError, match=r"doesn't fit the input x FP32 \[-1,3\]"):
            random_requests("m", wanted, {"x": shape}, bytes_length=5, seed=1)
    with pytest.raises(InvalidArgumentError, match="m has no input y; it has x"):
        random_requests("m", wanted, {"y": (1,)}, bytes_length=5, seed=1)


def _answer(**changes: Any) -> bytes:
    response = service_pb2.ModelInferResponse(model_name="m")
    response.outputs.add(name="y", datatype="FP32", shape=changes.get("shape", [1, 2]))
    response.raw_output_contents.extend(changes.get("raws", [bytes(8)]))
    return response.SerializeToString()


def test_what_is_no_answer_is_found_out():
    checker = Checker(every=2, outputs=frozenset({"y"}))
    assert checker.problem(0, _answer()) == ""
    assert checker.problem(1, b"") == "the answer is empty"
    assert checker.problem(0, b"\xff") == "the answer can't be decoded"
    assert "no outputs" in checker.problem(2, b"\x0a\x01m")
    assert "has 8 bytes" in checker.problem(2, _answer(shape=[3]))
    assert "contents for 2" in checker.problem(2, _answer(raws=[bytes(8)] * 2))
    assert "which the model has not" in Checker(1, frozenset({"z"})).problem(0, _answer())
    # One of two is looked into.
    assert checker.problem(1, _answer(shape=[3])) == ""


def test_no_inputs_make_a_request_too():
    assert _parsed(encoded("m", [])).model_name == "m"
