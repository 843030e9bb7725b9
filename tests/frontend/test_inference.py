"""Requests and answers: every type, every mistake, and what callers share."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

Fill = Callable[[Any], None]

RAW = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], "u1"),
    "UINT16": np.array([[0, 65535]], "u2"),
    "UINT32": np.array([[0, 2**32 - 1]], "u4"),
    "UINT64": np.array([[0, 2**64 - 1]], "u8"),
    "INT8": np.array([[[-128], [127]]], "i1"),
    "INT16": np.array([[-(2**15), 2**15 - 1]], "i2"),
    "INT32": np.array([[-(2**31), 2**31 - 1]], "i4"),
    "INT64": np.array([[-(2**63), 2**63 - 1]], "i8"),
    "FP16": np.array([[1.5, -2.0]], "f2"),
    "FP32": np.array([[1.5, np.inf]], "f4"),
    "FP64": np.array([[1.5, 5e-324]], "f8"),
    "BYTES": np.array([[b"", b"a\x00b", "ü".encode()]], object),
}
TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
NAMES = {name: "STRING" if name == "BYTES" else name for name in RAW}


def adder(**fields: Any) -> Any:
    """Make a right request to the adder: a batch of one."""
    request = service_pb2.ModelInferRequest(model_name="adder", **fields)
    for name in ("A", "B"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(struct.pack("<2f", 1, 2))
    return request


def failure(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


# Types.


@pytest.mark.parametrize("datatype", RAW)
def test_raw_contents_of_every_type_come_back(frontend: Any, tensor: Any, datatype: str):
    name, array = NAMES[datatype], RAW[datatype]
    answer = frontend.client().infer("echo", [tensor(name, array, datatype)])
    back = answer.as_numpy(f"{name}_OUT")
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


def test_bf16_comes_back(frontend: Any):
    # The stock client wants a package for this type.
    request = service_pb2.ModelInferRequest(
        model_name="echo", raw_input_contents=[b"\xc0?\x00\xc0"]
    )
    request.inputs.add(name="BF16", datatype="BF16", shape=[1, 2])
    answer = frontend.stub.ModelInfer(request)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BF16", [1, 2])
    assert answer.raw_output_contents == request.raw_input_contents


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_of_every_type_come_back(frontend: Any, datatype: str):
    name, array = NAMES[datatype], RAW[datatype]
    request = service_pb2.ModelInferRequest(model_name="echo")
    given = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    getattr(given.contents, TYPED[datatype]).extend(array.ravel().tolist())
    answer = frontend.stub.ModelInfer(request)
    raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
    assert list(answer.raw_output_contents) == [raw]


def test_raw_contents_skip_typed_ones(frontend: Any):
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="FP32", datatype="FP32", shape=[1, 1])
    typed = request.inputs.add(name="INT32", datatype="INT32", shape=[1, 1])
    typed.contents.int_contents.append(7)
    request.inputs.add(name="FP16", datatype="FP16", shape=[1, 1])
    request.raw_input_contents.extend([struct.pack("<f", 1.5), b"\x00\x3c"])
    answer = frontend.stub.ModelInfer(request)
    back = dict(zip((it.name for it in answer.outputs), answer.raw_output_contents, strict=True))
    assert back == {
        "FP32_OUT": struct.pack("<f", 1.5),
        "INT32_OUT": struct.pack("<i", 7),
        "FP16_OUT": b"\x00\x3c",
    }


def test_empty_tensor_comes_back(frontend: Any, tensor: Any):
    answer = frontend.client().infer("echo", [tensor("FP32", np.empty((2, 0), np.float32))])
    assert answer.as_numpy("FP32_OUT").shape == (2, 0)


def test_model_without_a_batch_dimension(frontend: Any, tensor: Any):
    x = np.arange(6, dtype=np.int32).reshape(3, 2)
    answer = frontend.client().infer("whole", [tensor("X", x)])
    assert answer.as_numpy("Y").tolist() == (2 * x).tolist()


def test_answer_is_what_triton_says_and_where_it_ran(frontend: Any, triton: Any):
    ours, own = (
        it.ModelInfer(adder(id="my id", outputs=[wanted("SUM")]))
        for it in (frontend.stub, triton.stub())
    )
    assert ours.parameters["paldia_node"].string_param == "node-1"
    assert ours.parameters["paldia_batch"].int64_param == 1
    ours.ClearField("parameters")
    assert ours == own


def wanted(name: str) -> Any:
    return service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name)


def test_classification_is_passed_on(frontend: Any):
    request = adder(outputs=[wanted("SUM")])
    request.outputs[0].parameters["classification"].int64_param = 1
    answer = frontend.stub.ModelInfer(request)
    assert answer.outputs[0].datatype == "BYTES"
    assert answer.raw_output_contents[0].endswith(b"4.000000:1")


@pytest.mark.parametrize("key", ["mm-vmodel-id", "seldon-model"])
def test_model_may_be_named_in_metadata(frontend: Any, key: str):
    request = adder()
    request.model_name = ""
    answer = frontend.stub.ModelInfer(request, metadata=((key, "adder"),))
    assert answer.model_name == "adder"
    request.model_name = "nope"
    failed = failure(lambda: frontend.stub.ModelInfer(request, metadata=((key, "adder"),)))
    assert failed.code() is grpc.StatusCode.NOT_FOUND


def test_model_may_have_another_name_in_triton(
    frontend: Any, controller: Any, triton: Any, until: Any
):
    controller.tell(triton.route("adder", name="alias"))
    frontend.await_model("alias")
    request = adder()
    request.model_name = "alias"
    assert frontend.stub.ModelInfer(request).model_name == "alias"
    (statistics,) = frontend.client().get_inference_statistics("alias").model_stats
    assert statistics.name == "alias"
    assert frontend.client().get_model_metadata("alias").name == "alias"


# Mistakes.


def reshape(shape: list[int]) -> Fill:
    def fill(request: Any) -> None:
        request.inputs[0].shape[:] = shape

    return fill


def change(**fields: Any) -> Fill:
    def fill(request: Any) -> None:
        for name, value in fields.items():
            setattr(request.inputs[0], name, value)

    return fill


def batch_of_five(request: Any) -> None:
    for index in range(2):
        request.inputs[index].shape[0] = 5
        request.raw_input_contents[index] *= 5


def twice(request: Any) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def parameter(name: str, **value: Any) -> Fill:
    def fill(request: Any) -> None:
        request.parameters[name].MergeFrom(service_pb2.InferParameter(**value))

    return fill


def typed_fp16(request: Any) -> None:
    request.inputs[0].datatype = "FP16"
    request.inputs[0].contents.fp32_contents.extend([1, 2])
    del request.raw_input_contents[0]


def shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    del request.raw_input_contents[0]


def no_inputs(request: Any) -> None:
    del request.inputs[:]
    del request.raw_input_contents[:]


MISTAKES: dict[str, tuple[Fill, str, str]] = {
    "unknown model": (lambda r: setattr(r, "model_name", "nope"), "NOT_FOUND", "nope"),
    "no model": (lambda r: setattr(r, "model_name", ""), "NOT_FOUND", "no model"),
    "other version": (lambda r: setattr(r, "model_version", "3"), "NOT_FOUND", "version 3"),
    "no version": (lambda r: setattr(r, "model_version", "x"), "INVALID_ARGUMENT", "'x'"),
    "decoupled": (
        lambda r: setattr(r, "model_name", "countdown"),
        "UNIMPLEMENTED",
        "ModelStreamInfer",
    ),
    "empty": (no_inputs, "INVALID_ARGUMENT", "no inputs"),
    "unknown input": (change(name="Z"), "INVALID_ARGUMENT", "'Z'.*'A', 'B'"),
    "input twice": (twice, "INVALID_ARGUMENT", "'A' is given twice"),
    "missing input": (
        lambda r: (r.inputs.pop(), r.raw_input_contents.pop()),
        "INVALID_ARGUMENT",
        "missing input 'B'",
    ),
    "wrong type": (change(datatype="INT32"), "INVALID_ARGUMENT", "'A'.*FP32.*INT32"),
    "no type": (change(datatype="FP7"), "INVALID_ARGUMENT", "'A'.*FP32.*FP7"),
    "wrong shape": (reshape([1, 3]), "INVALID_ARGUMENT", r"'A'.*\[batch, 2\].*\[1, 3\]"),
    "wrong rank": (reshape([2]), "INVALID_ARGUMENT", r"'A'.*\[batch, 2\].*\[2\]"),
    "negative size": (reshape([-1, 2]), "INVALID_ARGUMENT", r"'A'.*negative.*\[-1, 2\]"),
    "absurd size": (reshape([2**62, 2**62]), "INVALID_ARGUMENT", "'A'"),
    "batch of none": (reshape([0, 2]), "INVALID_ARGUMENT", "'A'.*at least 1"),
    "uneven batches": (reshape([2, 2]), "INVALID_ARGUMENT", "'A'"),
    "batch too large": (batch_of_five, "INVALID_ARGUMENT", "batch of 5.*at most 4"),
    "too few bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, b"1234"),
        "INVALID_ARGUMENT",
        "'A'.*8 bytes, not 4",
    ),
    "no contents": (lambda r: r.raw_input_contents.pop(), "INVALID_ARGUMENT", "'B'.*no contents"),
    "surplus contents": (
        lambda r: r.raw_input_contents.append(b""),
        "INVALID_ARGUMENT",
        "more raw contents",
    ),
    "unknown output": (
        lambda r: r.outputs.append(wanted("Q")),
        "INVALID_ARGUMENT",
        "'Q'.*'SUM', 'DIFFERENCE'",
    ),
    "typed FP16": (typed_fp16, "INVALID_ARGUMENT", "FP16 has no typed contents"),
    "shared memory": (shared_memory, "UNIMPLEMENTED", "'A'.*shared memory"),
    "negative priority": (
        parameter("priority", int64_param=-1),
        "INVALID_ARGUMENT",
        "'priority'.*-1",
    ),
    "timeout in words": (
        parameter("timeout", string_param="soon"),
        "INVALID_ARGUMENT",
        "'timeout'.*'soon'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(frontend: Any, mistake: str):
    spoil, code, words = MISTAKES[mistake]
    request = adder()
    spoil(request)
    with pytest.raises(grpc.RpcError, match=words) as caught:
        frontend.stub.ModelInfer(request)
    assert caught.value.code().name == code


@pytest.mark.parametrize(
    "raw", [b"\x01\x00\x00\x00a", b"\xff\xff\xff\xffa\x00\x00\x00\x00", b"\x01\x00"]
)
def test_strings_that_do_not_add_up(frontend: Any, raw: bytes):
    request = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[raw])
    request.inputs.add(name="STRING", datatype="BYTES", shape=[1, 2])
    failed = failure(lambda: frontend.stub.ModelInfer(request))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'STRING'" in failed.details()


def test_models_own_error_is_passed_on(frontend: Any, tensor: Any):
    with pytest.raises(InferenceServerException, match="time does not run backwards") as caught:
        frontend.client().infer("sleeper", [tensor("SECONDS", np.array([[-1]], np.float32))])
    assert caught.value.status() == "StatusCode.INTERNAL"


# Merging.


def sleeper(seconds: float, request_id: str = "", rows: int = 1, model: str = "single") -> Any:
    request = service_pb2.ModelInferRequest(model_name=f"{model}-sleeper", id=request_id)
    request.inputs.add(name="SECONDS", datatype="FP32", shape=[rows, 1])
    request.raw_input_contents.append(struct.pack("<f", seconds) * rows)
    return request


def together(frontend: Any, requests: list[Any], busy_s: float = 0.4) -> list[Any]:
    """Send all while the lane is busy; give each one's answer or error, in order."""
    with frontend.busy(sleeper(busy_s)):
        calls = [frontend.stub.ModelInfer.future(request, timeout=20) for request in requests]
        return [call.exception() or call.result() for call in calls]


def rows_together(answer: Any) -> int:
    return int(answer.parameters["paldia_batch"].int64_param)


def test_like_requests_share_a_call_and_each_gets_its_own_rows(frontend: Any):
    requests = [sleeper(number / 1000, str(number), 1 + number % 2) for number in range(10)]
    answers = together(frontend, requests)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.id == request.id
        assert list(answer.outputs[0].shape) == list(request.inputs[0].shape)
        assert answer.raw_output_contents == request.raw_input_contents
    # 1 + 2 + 1 + 2 + 1, and the next has 2 where 8 is the limit.
    assert [rows_together(answer) for answer in answers] == [7] * 5 + [8] * 5


@pytest.mark.parametrize("datatype", ["BYTES", "FP16", "BF16", "INT8", "BOOL"])
def test_merged_answers_equal_unmerged_ones(frontend: Any, datatype: str):
    requests = []
    for number in range(60):
        request = service_pb2.ModelInferRequest(model_name="single-echo", id=str(number))
        dims = [2, 1] if datatype == "INT8" else [2]
        rows = 1 + number % 3
        request.inputs.add(
            name=NAMES.get(datatype, datatype), datatype=datatype, shape=[rows, *dims]
        )
        request.raw_input_contents.append(rows * contents(datatype, number))
        requests.append(request)
    calls = [frontend.stub.ModelInfer.future(request, timeout=20) for request in requests]
    for request, call in zip(requests, calls, strict=True):
        assert call.result().raw_output_contents == request.raw_input_contents
        assert call.result().id == request.id
    assert any(rows_together(call.result()) > 3 for call in calls)


def contents(datatype: str, number: int) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", size) + b"x" * size for size in (number, 0))
    return bytes([number % 2, 1]) if datatype in ("BOOL", "INT8") else bytes([number, 0x3C, 1, 2])


def test_one_bad_request_does_not_spoil_those_it_was_merged_with(frontend: Any):
    requests = [sleeper(0.01, "good"), sleeper(-1, "bad"), sleeper(0.02, "fine")]
    good, bad, fine = together(frontend, requests)
    assert (good.id, fine.id) == ("good", "fine")
    assert "time does not run backwards" in bad.details()


def test_model_whose_answers_have_no_rows_is_not_merged(frontend: Any):
    def totals() -> None:
        requests = []
        for number in range(5):
            request = service_pb2.ModelInferRequest(model_name="total", id=str(number))
            request.inputs.add(name="X", datatype="FP32", shape=[1, 1])
            request.raw_input_contents.append(struct.pack("<f", number))
            requests.append(request)
        calls = [frontend.stub.ModelInfer.future(request, timeout=20) for request in requests]
        for number, call in enumerate(calls):
            assert call.result().raw_output_contents == [struct.pack("<f", number)]
            assert rows_together(call.result()) == 1

    def batches() -> float:
        return float(frontend.metric("paldia_batch_rows_count", model="total"))

    totals()
    assert batches() > 5, "none was tried together"
    before = batches()
    totals()
    assert batches() == before + 5


@pytest.mark.parametrize(
    ("name", "value"), [("priority", {"uint64_param": 2}), ("timeout", {"int64_param": 10**8})]
)
def test_requests_that_differ_in_urgency_may_share(frontend: Any, name: str, value: dict):
    requests = [sleeper(0.01), sleeper(0.01)]
    requests[1].parameters[name].MergeFrom(service_pb2.InferParameter(**value))
    assert [rows_together(answer) for answer in together(frontend, requests)] == [2, 2]


def test_requests_that_ask_for_different_things_do_not(frontend: Any):
    requests = [sleeper(0.01), sleeper(0.01), sleeper(0.01)]
    requests[1].parameters["mode"].string_param = "fast"
    requests[2].outputs.add(name="SLEPT")
    assert [rows_together(answer) for answer in together(frontend, requests)] == [1, 1, 1]


def test_requests_for_different_versions_are_not_mixed(frontend: Any):
    requests = [sleeper(0.01), sleeper(0.01), sleeper(0.01)]
    requests[1].model_version = "1"
    requests[2].model_version = "9"
    plain, right, wrong = together(frontend, requests)
    assert plain.model_version == right.model_version == "1"
    assert wrong.code() is grpc.StatusCode.NOT_FOUND


def test_urgent_requests_go_first(frontend: Any, until: Any):
    order = []
    with frontend.busy(sleeper(0.4, model="narrow")):
        for priority in (2, 0, 1):
            request = sleeper(0.02, f"p{priority}", model="narrow")
            request.parameters["priority"].uint64_param = priority
            call = frontend.stub.ModelInfer.future(request, timeout=20)
            call.add_done_callback(lambda call: order.append(call.result().id))
    until("all are answered", lambda: len(order) == 3)
    assert order == ["p1", "p0", "p2"]


# Sequences.


def step(sequence: int, x: int, model: str = "counter", **marks: bool) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, id=str(x))
    request.inputs.add(name="X", datatype="INT32", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<i", x))
    request.parameters["sequence_id"].int64_param = sequence
    for name, value in marks.items():
        request.parameters[name].bool_param = value
    return request


def total(answer: Any) -> int:
    return int(struct.unpack("<i", answer.raw_output_contents[0])[0])


def test_sequence_keeps_its_state_and_its_order(frontend: Any):
    infer = frontend.stub.ModelInfer
    assert total(infer(step(1, 1, sequence_start=True))) == 1
    assert total(infer(step(2, 100, sequence_start=True))) == 100
    assert total(infer(step(1, 2))) == 3
    # All at once on a stream: still in order, on one instance.
    steps = [step(2, x, sequence_end=x == 20) for x in range(1, 21)]
    sums = [total(it.infer_response) for it in frontend.stub.ModelStreamInfer(iter(steps))]
    assert sums == [100 + x * (x + 1) // 2 for x in range(1, 21)]
    failed = failure(lambda: infer(step(2, 1)))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "START" in failed.details()


def test_sequence_stays_on_its_node(frontend: Any, controller: Any, triton: Any, until: Any):
    # One Triton by two names stands for two nodes; the first of equal lanes is taken.
    route = triton.route("counter", triton, name="wandering")
    route.lanes[1].endpoint = triton.endpoint.replace("127.0.0.1", "localhost")
    controller.tell(route)
    frontend.await_model("wandering")

    def take(sequence: int, **marks: bool) -> str:
        answer = frontend.stub.ModelInfer(step(sequence, 1, "wandering", **marks))
        return str(answer.parameters["paldia_node"].string_param)

    assert take(11, sequence_start=True) == "node-1"
    route.lanes.reverse()
    route.lanes[1].points[0].latency.FromMilliseconds(50)
    controller.tell(route)
    ids = itertools.count(12)
    until("new ones start elsewhere", lambda: take(next(ids), sequence_start=True) == "node-2")
    assert [take(11) for _ in range(3)] == ["node-1"] * 3


def test_a_request_that_cannot_be_decoded_is_told_so(frontend: Any):
    call = frontend.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    failed = failure(lambda: call(b"\xff\xff", timeout=20))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "decoded" in failed.details()


@pytest.mark.parametrize("version", ["9" * 5000, "٣", "-1", "0", "1.0"])
def test_an_absurd_version_is_refused(frontend: Any, version: str):
    request = adder()
    request.model_version = version
    failed = failure(lambda: frontend.stub.ModelInfer(request))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
