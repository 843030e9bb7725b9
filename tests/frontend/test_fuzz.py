"""Whatever reaches the port: a clear error or none, and everybody else is served as before.

Short and always the same; FUZZ_EXAMPLES=10000 tries as many of each kind, new ones every time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

SERVICE = "/inference.GRPCInferenceService/"
LIMIT_S = 20.0
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
# The caller's own fault, whichever it is.
CLEAR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def fuzz(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def right(frontend: Any) -> None:
    """Somebody else's request is answered."""
    request = service_pb2.ModelInferRequest(model_name="adder", id="somebody else's")
    for name in ("A", "B"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(struct.pack("<2f", 1, 2))
    answer = frontend.stub.ModelInfer(request, timeout=LIMIT_S)
    assert answer.raw_output_contents[0] == struct.pack("<2f", 2, 4)


@pytest.fixture(scope="module")
def attacked(start_frontend: Any, controller: Any) -> Iterator[Any]:
    """Give a frontend that may be treated badly; in the end it must be none the worse."""
    frontend = start_frontend(controller, "--message-limit-mib", "1", "--log-level", "error")
    frontend.await_model("adder")
    yield frontend
    right(frontend)
    assert frontend.process.poll() is None
    # gRPC's own lines are none of ours.
    ours = [line for line in frontend.log.read_bytes().splitlines() if line.startswith(b"{")]
    assert ours == [], "nothing here is a fault of ours"
    assert frontend.stop() == 0


# Requests.

NAMES = st.one_of(
    st.sampled_from(
        ["", "A", "B", "FP32", "X", "adder", "echo", "\0", "A\0", "\ufeffA", "🦊" * 99]
    ),
    st.text(max_size=20),
)
SIZES = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
)
SHAPES = st.lists(st.one_of(st.integers(0, 3), SIZES), max_size=5)
PARAMETERS = st.dictionaries(
    st.one_of(
        st.sampled_from(
            [
                "priority",
                "timeout",
                "sequence_id",
                "sequence_start",
                "classification",
                "shared_memory_region",
                "triton_enable_empty_final_response",
                "paldia_node",
            ]
        ),
        st.text(max_size=5),
    ),
    st.one_of(
        st.builds(service_pb2.InferParameter, bool_param=st.booleans()),
        st.builds(service_pb2.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(service_pb2.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
        st.builds(service_pb2.InferParameter, double_param=st.floats()),
        st.builds(service_pb2.InferParameter, string_param=st.text(max_size=9)),
        st.just(service_pb2.InferParameter()),
    ),
    max_size=3,
)
CONTENTS = st.builds(
    service_pb2.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=3),
    int_contents=st.one_of(st.just([]), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)),
    bytes_contents=st.one_of(st.just([]), st.lists(st.binary(max_size=3), max_size=3)),
)
# Now and then something that is right, so that what is wrong elsewhere is reached.
RAW = st.one_of(st.binary(max_size=12), st.just(struct.pack("<2f", 1, 2)))
DATATYPES = st.one_of(
    st.sampled_from(["FP32", "FP32", "INT32", "BYTES", "FP16", "BOOL", "fp32", "STRING", ""]),
    st.text(max_size=4),
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Draw a request that is wrong somewhere, most of the time."""
    request = service_pb2.ModelInferRequest(
        model_name=draw(
            st.one_of(
                st.sampled_from(["adder", "adder", "echo", "whole", "countdown", "counter"]), NAMES
            )
        ),
        id=draw(st.one_of(st.just("1"), NAMES)),
        model_version=draw(st.one_of(st.just(""), st.just("1"), NAMES)),
    )
    put(request.parameters, draw(st.one_of(st.just({}), PARAMETERS)))
    names = draw(st.one_of(st.just(["A", "B"]), st.lists(NAMES, max_size=4)))
    for name in names:
        tensor = request.inputs.add(
            name=name,
            datatype=draw(DATATYPES),
            shape=draw(st.one_of(st.just([1, 2]), SHAPES)),
        )
        put(tensor.parameters, draw(st.one_of(st.just({}), PARAMETERS)))
        if draw(st.integers(0, 3)) == 0:
            tensor.contents.CopyFrom(draw(CONTENTS))
    request.raw_input_contents.extend(
        draw(st.one_of(st.lists(RAW, min_size=len(names), max_size=len(names)), st.lists(RAW)))
    )
    for name in draw(st.one_of(st.just([]), st.lists(NAMES, max_size=2), st.just(["SUM"]))):
        output = request.outputs.add(name=name)
        put(output.parameters, draw(st.one_of(st.just({}), PARAMETERS)))
    return request


def put(parameters: Any, drawn: dict[str, Any]) -> None:
    for name, value in drawn.items():
        parameters[name].CopyFrom(value)


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    try:
        call()
    except grpc.RpcError as failed:
        return failed.code(), failed.details()
    return grpc.StatusCode.OK, "-"


@fuzz(250)
@given(request=requests())
def test_wrong_requests_are_told_what_is_wrong(attacked: Any, request: Any) -> None:
    code, words = status_of(lambda: attacked.stub.ModelInfer(request, timeout=LIMIT_S))
    assert code in CLEAR, words
    assert words
    assert "Traceback" not in words


@fuzz(60)
@given(wrong=st.lists(requests(), max_size=4), ends=st.booleans())
def test_so_they_are_on_a_stream(attacked: Any, wrong: list[Any], ends: bool) -> None:
    metadata = [("triton_grpc_error", "true")] if ends else []

    def call() -> None:
        stream = attacked.stub.ModelStreamInfer(iter(wrong), timeout=LIMIT_S, metadata=metadata)
        for response in stream:
            assert "Traceback" not in response.error_message

    code, words = status_of(call)
    assert code in CLEAR, words


@fuzz(150)
@given(
    noise=st.one_of(
        st.binary(max_size=300), st.builds(lambda it: it.SerializeToString(), requests())
    ),
    cut=st.integers(0, 400),
    method=st.sampled_from(
        [
            "ModelInfer",
            "ModelReady",
            "ModelMetadata",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "ServerLive",
            "ModelStreamInfer",
            "RepositoryModelLoad",
            "Nothing",
        ]
    ),
)
def test_bytes_that_are_no_message_are_refused(
    attacked: Any, noise: bytes, cut: int, method: str
) -> None:
    if method == "ModelStreamInfer":
        call = attacked.channel.stream_stream(SERVICE + method)
        code, words = status_of(lambda: list(call(iter([noise[:cut]]), timeout=LIMIT_S)))
    else:
        call = attacked.channel.unary_unary(SERVICE + method)
        code, words = status_of(lambda: call(noise[:cut], timeout=LIMIT_S))
    assert code in CLEAR, (code, words)
    assert words


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x02\x0a\x00"])
def test_a_message_that_would_grow_by_decoding_is_refused(attacked: Any, field: bytes) -> None:
    call = attacked.channel.unary_unary(SERVICE + "ModelInfer")
    code, words = status_of(lambda: call(field * 400_000, timeout=LIMIT_S))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "names, shapes" in words or "larger than max" in words


def test_a_compressed_message_counts_as_what_it_grows_to(attacked: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(50 << 20)])
    request.inputs.add(name="UINT8", datatype="UINT8", shape=[1, 50 << 20])
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        code, words = status_of(
            lambda it=compression: attacked.stub.ModelInfer(
                request, timeout=LIMIT_S, compression=it
            )
        )
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in words


def test_a_flood_of_metadata_is_refused(attacked: Any) -> None:
    flood = [(f"key-{number}", "v" * 100) for number in range(500)]
    live = service_pb2.ServerLiveRequest()
    code, words = status_of(lambda: attacked.stub.ServerLive(live, metadata=flood, timeout=LIMIT_S))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata" in words
    right(attacked)


# Below requests: connections.

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, DATA, RESET, PING, CONTINUATION = 4, 1, 0, 3, 6, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload).to_bytes(3, "big")
    return size + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """Encode a header as a literal that isn't indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


BLOCK = (
    header(b":method", b"POST")
    + header(b":scheme", b"http")
    + header(b":path", (SERVICE + "ServerLive").encode())
    + header(b":authority", b"x")
    + header(b"te", b"trailers")
    + header(b"content-type", b"application/grpc")
)
CALL = frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")
OPENING = PREFACE + frame(SETTINGS, 0, 0, b"")


@contextlib.contextmanager
def connection(frontend: Any) -> Iterator[socket.socket]:
    host, _, port = frontend.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as opened:
        yield opened


def exchange(frontend: Any, sent: bytes) -> bytes:
    """Send something and nothing more; give all that comes back until the server hangs up."""
    with connection(frontend) as opened, contextlib.suppress(ConnectionError):
        opened.sendall(sent)
        opened.shutdown(socket.SHUT_WR)
        received = b""
        while piece := opened.recv(1 << 16):
            received += piece
        return received
    return b""


def test_a_call_made_by_hand_is_answered(attacked: Any) -> None:
    # So that what follows goes wrong for the reason it should.
    with connection(attacked) as opened:
        opened.sendall(OPENING + CALL)
        received = b""
        while b"\x08\x01" not in received:
            received += opened.recv(1 << 16)


@fuzz(80)
@given(
    start=st.sampled_from([b"", PREFACE, OPENING, OPENING + CALL]), noise=st.binary(max_size=200)
)
def test_bytes_that_are_no_protocol_end_their_connection(
    attacked: Any, start: bytes, noise: bytes
) -> None:
    exchange(attacked, start + noise)
    right(attacked)


@fuzz(80)
@given(
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 2**31 - 1]),
    payload=st.binary(max_size=60),
    before=st.sampled_from([OPENING, OPENING + CALL, OPENING + frame(HEADERS, 0, 1, BLOCK)]),
)
def test_frames_that_make_no_sense_harm_nobody(
    attacked: Any, kind: int, flags: int, stream: int, payload: bytes, before: bytes
) -> None:
    exchange(attacked, before + frame(kind, flags, stream, payload))
    right(attacked)


@fuzz(60)
@given(data=st.data())
def test_frames_cut_off_or_spoilt_harm_nobody(attacked: Any, data: st.DataObject) -> None:
    whole = bytearray(OPENING + CALL)
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    exchange(attacked, bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    right(attacked)


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(PING, 0, 0, bytes(8)) * 5000, id="pings"),
        pytest.param(frame(SETTINGS, 0, 0, b"") * 5000, id="settings"),
        pytest.param(frame(DATA, 0, 1, b"") * 5000, id="nothing"),
        pytest.param(
            frame(HEADERS, 0, 1, BLOCK)
            + frame(CONTINUATION, 0, 1, header(b"k", b"v" * 100) * 100) * 100,
            id="headers without end",
        ),
        pytest.param(
            b"".join(
                frame(HEADERS, END_HEADERS, number, BLOCK) + frame(RESET, 0, number, bytes(4))
                for number in range(1, 6001, 2)
            ),
            id="calls taken back",
        ),
    ],
)
def test_floods_harm_nobody(attacked: Any, flood: bytes) -> None:
    exchange(attacked, OPENING + flood)
    right(attacked)


@pytest.mark.parametrize(
    "opening", [b"", PREFACE[:7], PREFACE, OPENING, OPENING + frame(HEADERS, 0, 1, BLOCK)]
)
def test_connections_that_only_hang_about_harm_nobody(attacked: Any, opening: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connection(attacked)).sendall(opening)
        right(attacked)
