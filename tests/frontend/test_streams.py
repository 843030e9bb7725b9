"""ModelStreamInfer: order, errors in band or not, and models with many answers."""

from __future__ import annotations

import queue
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import aio, service_pb2

FINAL = "triton_final_response"


def sleeper(seconds: float, request_id: str = "") -> Any:
    request = service_pb2.ModelInferRequest(model_name="sleeper", id=request_id)
    request.inputs.add(name="SECONDS", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<f", seconds))
    return request


def countdown(start: int, request_id: str = "", *, says_end: bool = False) -> Any:
    request = service_pb2.ModelInferRequest(model_name="countdown", id=request_id)
    request.inputs.add(name="FROM", datatype="INT32", shape=[1])
    request.raw_input_contents.append(struct.pack("<i", start))
    if says_end:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def stream(frontend: Any, requests: list[Any], **options: Any) -> Any:
    """Open a stream with these requests; one that hangs fails."""
    return frontend.stub.ModelStreamInfer(iter(requests), timeout=20, **options)


def seen(responses: Iterator[Any]) -> list[tuple[str, int | None, bool]]:
    """Give id, number if any, and whether it is the last, of each answer."""
    rows = []
    for response in responses:
        assert not response.error_message, response.error_message
        answer = response.infer_response
        raw = answer.raw_output_contents
        number = struct.unpack("<i", raw[0])[0] if raw else None
        rows.append((answer.id, number, answer.parameters[FINAL].bool_param))
    return rows


def test_answers_keep_the_order_of_requests(frontend: Any):
    requests = [sleeper(0.3, "slow"), sleeper(0.01, "fast"), sleeper(0.02, "fast too")]
    answers = list(stream(frontend, requests))
    assert [answer.infer_response.id for answer in answers] == ["slow", "fast", "fast too"]
    assert all(answer.infer_response.parameters[FINAL].bool_param for answer in answers)
    assert [answer.infer_response.raw_output_contents[0] for answer in answers] == [
        request.raw_input_contents[0] for request in requests
    ]


def test_requests_of_a_stream_run_side_by_side(frontend: Any):
    before = frontend.metric("paldia_batch_rows_count", model="sleeper")
    assert len(list(stream(frontend, [sleeper(0.05)] * 17))) == 17
    # Merging shows that they were in together.
    assert frontend.metric("paldia_batch_rows_count", model="sleeper") - before < 10


def test_empty_stream_ends_well(frontend: Any):
    assert list(stream(frontend, [])) == []


def test_errors_ride_in_the_stream(frontend: Any):
    wrong, unknown = sleeper(0, "wrong"), sleeper(0, "unknown")
    wrong.inputs[0].name = "Q"
    unknown.model_name = "nope"
    requests = [sleeper(0, "1"), wrong, unknown, sleeper(-1, "own"), sleeper(0, "5")]
    answers = list(stream(frontend, requests))
    assert [answer.infer_response.id for answer in answers] == ["1", "wrong", "unknown", "own", "5"]
    messages = [answer.error_message for answer in answers]
    assert (messages[0], messages[4]) == ("", "")
    assert messages[1].startswith("[request id: wrong] unknown input 'Q'")
    assert "no model named 'nope'" in messages[2]
    assert "time does not run backwards" in messages[3]


def test_error_ends_the_stream_if_asked(frontend: Any):
    wrong = sleeper(0, "wrong")
    wrong.inputs[0].name = "Q"
    call = stream(
        frontend,
        iter([sleeper(0, "1"), wrong, sleeper(0, "3")]),
        metadata=(("triton_grpc_error", "true"),),
    )
    assert next(call).infer_response.id == "1"
    with pytest.raises(grpc.RpcError, match="unknown input 'Q'") as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_decoupled_model_answers_as_often_as_it_likes(frontend: Any, triton: Any):
    requests = [countdown(3, "three"), countdown(0, "none")]
    ours = list(stream(frontend, requests))
    assert seen(iter(ours)) == [("three", 2, False), ("three", 1, False), ("three", 0, False)]
    assert ours[0].infer_response.parameters["paldia_node"].string_param == "node-1"
    own = list(triton.stub().ModelStreamInfer(iter(requests)))
    for answer in ours:
        del answer.infer_response.parameters["paldia_node"]
        del answer.infer_response.parameters["paldia_batch"]
    assert ours == own


def test_decoupled_model_says_that_it_is_done_if_asked(frontend: Any):
    requests = [countdown(1, "one", says_end=True), countdown(0, "none", says_end=True)]
    answers = seen(stream(frontend, requests))
    assert sorted(answers, key=str) == [
        ("none", None, True),
        ("one", 0, False),
        ("one", None, True),
    ]


def test_decoupled_answers_wait_for_nobody(frontend: Any):
    requests = [sleeper(0.5, "slow"), countdown(2, "count"), sleeper(0, "last")]
    answers = list(stream(frontend, requests))
    assert [answer.infer_response.id for answer in answers] == ["count", "count", "slow", "last"]


def test_long_answer_is_not_read_ahead(frontend: Any, until: Any):
    # Far more answers than are held for a client that doesn't read: memory stays bounded,
    # and others are served meanwhile.
    call = stream(frontend, [countdown(20_000, "long")])
    first = next(call)
    assert first.infer_response.id == "long"
    assert len(list(stream(frontend, [sleeper(0)]))) == 1
    call.cancel()
    # Its lane is free again.
    assert len(seen(stream(frontend, [countdown(2)]))) == 2


def test_abandoned_stream_gives_its_lanes_back(frontend: Any, until: Any):
    def ended() -> float:
        return float(frontend.metric("paldia_requests_total", model="sleeper", code="CANCELLED"))

    def started() -> float:
        return float(frontend.metric("paldia_batch_rows_count", model="sleeper"))

    ended_before, started_before = ended(), started()
    call = stream(frontend, [sleeper(1), sleeper(1)])
    until("they run", lambda: started() > started_before)
    call.cancel()
    until("they are counted", lambda: ended() == ended_before + 2)
    assert len(list(stream(frontend, [sleeper(0)]))) == 1


def test_sync_client_streams(frontend: Any, tensor: Any):
    client, answers = frontend.client(), queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(3):
        x = np.full((1, 2), number, np.float32)
        inputs = [tensor("A", x), tensor("B", x)]
        client.async_stream_infer("adder", inputs, request_id=str(number))
    client.async_stream_infer("adder", [tensor("A", x)], request_id="bad")
    client.stop_stream()
    for number in range(3):
        result, error = answers.get_nowait()
        assert error is None
        assert result.get_response().id == str(number)
        assert result.as_numpy("SUM").tolist() == [[2 * number, 2 * number]]
    result, error = answers.get_nowait()
    assert result is None
    assert "[request id: bad] missing input 'B'" in str(error)


async def test_asyncio_client_streams(frontend: Any, tensor: Any):
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in (2, 1):
            array = np.array([number], np.int32)
            yield {
                "model_name": "countdown",
                "inputs": [tensor("FROM", array)],
                "request_id": str(number),
            }

    async with aio.InferenceServerClient(frontend.address) as client:
        rows = []
        async for result, error in client.stream_infer(requests()):
            assert error is None
            rows.append((result.get_response().id, result.as_numpy("LEFT").tolist()))
    assert sorted(rows) == [("1", [0]), ("2", [0]), ("2", [1])]


def test_an_unreadable_message_ends_the_stream_after_what_came_before(frontend: Any):
    method = "/inference.GRPCInferenceService/ModelStreamInfer"
    call = frontend.channel.stream_stream(
        method, response_deserializer=service_pb2.ModelStreamInferResponse.FromString
    )
    good = sleeper(0.0, "before").SerializeToString()
    responses = call(iter([good, b"\xff\xff"]), timeout=20)
    assert next(responses).infer_response.id == "before"
    with pytest.raises(grpc.RpcError) as ended:
        next(responses)
    assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT
