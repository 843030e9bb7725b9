"""Whatever shares a batch, each caller gets byte for byte what it would have got alone.

Random requests go through the dispatcher to a stand-in for Triton, and through a frontend to a real
one. The stand-in computes what it answers from the bytes that reach it, in code of its own; what it
says to each request alone is what must come.
"""

from __future__ import annotations

import asyncio
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.metrics import Metrics
from paldia_frontend.requests import normalise
from paldia_frontend.routes import route_from_proto
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.api.convert import duration
from paldia.api.v1 import routing_pb2, types_pb2
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.kit.clock import SystemClock

WIDTHS = {
    **{"BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8},
    **{"INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8},
    **{"FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8},
}
TYPED = {
    **{"BOOL": ("bool_contents", "?"), "UINT8": ("uint_contents", "B")},
    **{"UINT16": ("uint_contents", "H"), "UINT32": ("uint_contents", "I")},
    **{"UINT64": ("uint64_contents", "Q"), "INT8": ("int_contents", "b")},
    **{"INT16": ("int_contents", "h"), "INT32": ("int_contents", "i")},
    **{"INT64": ("int64_contents", "q"), "FP64": ("fp64_contents", "d")},
    **{"FP32": ("fp32_contents", "f"), "BYTES": ("bytes_contents", "")},
}
TYPES = [*WIDTHS, "BYTES"]
# What no model may depend on, so requests that differ in it may share a batch.
FREE = ("priority", "timeout")


# Requests.


def fill(request: Any, datatype: str, shape: Sequence[int], seed: int, *, typed: bool) -> None:
    """Add an input with contents made from a seed."""
    rng, items = np.random.default_rng(seed), math.prod(shape)
    tensor = request.inputs.add(name=datatype, datatype=datatype, shape=shape)
    if datatype == "BYTES":
        sizes = rng.choice([0, 0, 1, 3, 300], items)
        values: Any = [rng.bytes(int(size)) for size in sizes]
        raw = b"".join(struct.pack("<I", len(value)) + value for value in values)
    else:
        raw = rng.bytes(items * WIDTHS[datatype])
        if datatype == "BOOL":
            raw = bytes(byte & 1 for byte in raw)
        elif datatype in ("FP32", "FP64"):
            # As typed contents a signalling NaN would come out as a quiet one.
            raw = rng.standard_normal(items).astype(f"<f{WIDTHS[datatype]}").tobytes()
        values = ()
        if datatype in TYPED:
            values = struct.unpack(f"<{items}{TYPED[datatype][1]}", raw)
    if typed and datatype in TYPED:
        tensor.contents.SetInParent()
        getattr(tensor.contents, TYPED[datatype][0]).extend(values)
    else:
        request.raw_input_contents.append(raw)


@st.composite
def requests(draw: st.DrawFn, *, batched: bool = True, stays_valid: bool = False) -> list[Any]:
    """Draw requests: a few patterns, each used several times, so that some are alike."""
    patterns = draw(
        st.lists(
            st.tuples(
                st.lists(
                    st.tuples(st.sampled_from(TYPES), st.integers(0, 3)),
                    min_size=1,
                    max_size=4,
                    unique_by=lambda it: it[0],
                ),
                st.sampled_from(["", "first", "lengths", "lengths"]),
                st.sampled_from(["", "", "mode", "classification"]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    messages = []
    for number in range(draw(st.integers(2, 12))):
        inputs, outputs, extra = draw(st.sampled_from(patterns))
        rows = draw(st.integers(1, 3))
        message = service_pb2.ModelInferRequest(
            model_name="rowwise", id=draw(st.sampled_from(["", f"id-{number}", "ü\0"]))
        )
        for datatype, usual in inputs:
            width = draw(st.sampled_from([usual, usual, usual, 2]))
            shape = [rows, width] if batched else [width]
            seed = draw(st.integers(0, 2**32))
            fill(message, datatype, shape, seed, typed=draw(st.booleans()))
        if outputs == "first":
            message.outputs.add(name=f"{inputs[0][0]}_OUT")
        elif outputs == "lengths":
            message.outputs.add(name="LENGTHS")
            message.outputs.add(name=f"{inputs[-1][0]}_OUT")
        if extra == "mode":
            message.parameters["mode"].string_param = draw(st.sampled_from("ab"))
        if extra == "classification" and message.outputs and not stays_valid:
            message.outputs[0].parameters["classification"].int64_param = 1
        if draw(st.booleans()):
            message.parameters["priority"].uint64_param = draw(st.integers(0, 3))
        if draw(st.booleans()):
            message.parameters["timeout"].int64_param = draw(st.integers(10**8, 10**9))
        messages.append(message)
    return messages


# The stand-in: it knows the protocol, and nothing of how requests are merged.


def contents_of(request: Any) -> list[bytes]:
    """Give the bytes of each input, whichever way they were sent."""
    raws = iter(request.raw_input_contents)
    contents = []
    for tensor in request.inputs:
        if not tensor.HasField("contents"):
            contents.append(next(raws))
            continue
        field, code = TYPED[tensor.datatype]
        values = getattr(tensor.contents, field)
        if tensor.datatype == "BYTES":
            contents.append(b"".join(struct.pack("<I", len(it)) + it for it in values))
        else:
            contents.append(struct.pack(f"<{len(values)}{code}", *values))
    return contents


def items_of(datatype: str, raw: bytes) -> list[bytes]:
    """Cut contents into elements, strings with their lengths."""
    if datatype != "BYTES":
        width = WIDTHS[datatype]
        return [raw[at : at + width] for at in range(0, len(raw), width)]
    items, at = [], 0
    while at < len(raw):
        end = at + 4 + struct.unpack_from("<I", raw, at)[0]
        items.append(raw[at:end])
        at = end
    return items


class StandIn:
    """A Triton with one model. Each output turns each row of its input round.

    LENGTHS of a row is a sum over all its bytes and all that the request asks besides, so that rows
    and requests can't be taken for one another. `flaw` gives a model that breaks its config.
    """

    def __init__(self, config: Any, flaw: str = "") -> None:
        self.config = config
        self.flaw = flaw
        self.stub = self
        self.emulated = False
        self.sizes: list[int] = []

    async def ModelInfer(self, message: Any, timeout: float | None) -> Any:  # noqa: N802
        self.sizes.append(message.inputs[0].shape[0])
        await asyncio.sleep(0)
        answer = self.answer(message)
        # As Triton does.
        answer.id = answer.id.partition("\0")[0]
        # A fresh object, as from a wire.
        return service_pb2.ModelInferResponse.FromString(answer.SerializeToString())

    def answer(self, request: Any) -> Any:
        batched = self.config.max_batch_size > 0
        answer = service_pb2.ModelInferResponse(
            model_name="rowwise", model_version="1", id=request.id
        )
        rows = request.inputs[0].shape[0] if batched else 1
        wanted = {it.name: it for it in request.outputs}
        asked = zlib.crc32(
            b"".join(
                name.encode() + value.SerializeToString(deterministic=True)
                for name, value in sorted(request.parameters.items())
                if name not in FREE
            )
            + ",".join(wanted).encode()
        )
        sums = [asked] * rows
        for tensor, raw in zip(request.inputs, contents_of(request), strict=True):
            items = items_of(tensor.datatype, raw)
            width = len(items) // rows
            cut = [items[row * width : (row + 1) * width] for row in range(rows)]
            sums = [zlib.crc32(b"".join(it), seed) for it, seed in zip(cut, sums, strict=True)]
            if wanted and f"{tensor.name}_OUT" not in wanted:
                continue
            turned = b"".join(item for row in cut for item in reversed(row))
            self.add(answer, wanted, f"{tensor.name}_OUT", tensor.datatype, tensor.shape, turned)
        if not wanted or "LENGTHS" in wanted:
            shape = [rows, 1] if batched else [1]
            raw = struct.pack(f"<{rows}q", *sums)
            if self.flaw == "no batch":
                # One figure for all rows, under a shape that has none.
                shape, raw = [rows], struct.pack("<q", sum(sums)) * rows
            elif self.flaw == "fewer rows":
                shape, raw = [1, 1], struct.pack("<q", sum(sums))
            self.add(answer, wanted, "LENGTHS", "INT64", shape, raw)
        return answer

    def add(
        self, answer: Any, wanted: dict[str, Any], name: str, datatype: str, shape: Any, raw: bytes
    ) -> None:
        if name in wanted and "classification" in wanted[name].parameters:
            # Classes are told for a request as a whole.
            datatype, shape = "BYTES", [shape[0], 1] if len(shape) > 1 else [1]
            text = b"%d" % zlib.crc32(raw)
            raw = (struct.pack("<I", len(text)) + text) * shape[0]
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
        answer.raw_output_contents.append(raw)


class OneUpstream:
    """Leads to the stand-in, whatever the endpoint."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    def route(self, wanted: Any) -> None: ...

    def acquire(self, endpoint: str) -> StandIn:
        return self.stand_in

    def release(self, upstream: StandIn) -> None: ...


def config_of(max_batch_size: int) -> Any:
    config = model_config_pb2.ModelConfig(name="rowwise", max_batch_size=max_batch_size)
    for datatype in TYPES:
        kind = model_config_pb2.DataType.Value(
            f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"
        )
        config.input.add(name=datatype, data_type=kind, dims=[-1], optional=True)
        config.output.add(name=f"{datatype}_OUT", data_type=kind, dims=[-1])
    config.output.add(name="LENGTHS", data_type=model_config_pb2.TYPE_INT64, dims=[1])
    return config


async def answers_to(stand_in: StandIn, messages: list[Any]) -> list[Any]:
    """Hand in all at once, over one lane: what is alike is merged as far as it goes."""
    config = stand_in.config
    lane = routing_pb2.Lane(
        node_id="node", endpoint="a:1", count=1, batch_size=max(1, config.max_batch_size)
    )
    route = route_from_proto(
        routing_pb2.ModelRoute(
            model="rowwise",
            state=routing_pb2.ROUTE_STATE_READY,
            slo=types_pb2.Slo(latency=duration(5.0), share=0.99),
            model_config=config.SerializeToString(),
            lanes=[lane],
        )
    )
    dispatcher = Dispatcher(
        DispatchKernel(),
        OneUpstream(stand_in),
        SystemClock(),
        Metrics(),
        message_limit_bytes=1 << 30,
        on_cold_wait=lambda: None,
    )
    dispatcher.take_routes([route], [])
    copies = [service_pb2.ModelInferRequest.FromString(it.SerializeToString()) for it in messages]
    return await asyncio.gather(
        *(dispatcher.infer(route, normalise(copy, config), None) for copy in copies)
    )


def told(answer: Any) -> Any:
    """Give an answer without what the frontend adds of its own."""
    own = service_pb2.ModelInferResponse()
    own.CopyFrom(answer)
    for name in ("paldia_node", "paldia_batch"):
        own.parameters.pop(name, None)
    return own


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([0, 1, 3, 8]), st.booleans())
def test_answers_are_those_of_each_request_alone(
    data: st.DataObject, max_batch_size: int, sequences: bool
) -> None:
    messages = data.draw(requests(batched=max_batch_size > 0))
    if 0 < max_batch_size < 3:
        for message in messages:
            message.CopyFrom(_one_row(message))
    if sequences:
        for message in messages[::2]:
            message.parameters["sequence_id"].int64_param = 7
    stand_in = StandIn(config_of(max_batch_size))
    answers = asyncio.run(answers_to(stand_in, messages))
    for message, answer in zip(messages, answers, strict=True):
        assert told(answer) == stand_in.answer(message)


def _one_row(message: Any) -> Any:
    """Give a request with one row of the same tensors."""
    one = service_pb2.ModelInferRequest(model_name=message.model_name, id=message.id)
    one.outputs.extend(message.outputs)
    for tensor in message.inputs:
        fill(one, tensor.datatype, [1, *tensor.shape[1:]], len(message.id), typed=False)
    return one


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["no batch", "fewer rows"]))
def test_a_model_whose_answers_have_no_rows_gives_what_it_gives_alone(
    data: st.DataObject, flaw: str
) -> None:
    messages = data.draw(requests())
    stand_in = StandIn(config_of(8), flaw)
    answers = asyncio.run(answers_to(stand_in, messages))
    for message, answer in zip(messages, answers, strict=True):
        assert told(answer) == stand_in.answer(message)


def plain(rows: int, **parameters: int) -> Any:
    message = service_pb2.ModelInferRequest(model_name="rowwise")
    fill(message, "INT8", [rows, 1], rows, typed=False)
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message


async def test_what_is_alike_is_merged() -> None:
    stand_in = StandIn(config_of(8))
    messages = [plain(1), plain(2, priority=2), plain(3, timeout=10**9), plain(1), plain(1)]
    await answers_to(stand_in, messages)
    assert stand_in.sizes == [8]


async def test_an_answer_without_rows_ends_merging_before_it_goes_wrong() -> None:
    # Two rows whatever is asked: right for two by chance.
    stand_in = StandIn(config_of(8))

    def constant(request: Any) -> Any:
        answer = service_pb2.ModelInferResponse(model_name="rowwise", id=request.id)
        answer.outputs.add(name="LENGTHS", datatype="INT64", shape=[2, 1])
        answer.raw_output_contents.append(struct.pack("<2q", 1, 2))
        return answer

    stand_in.answer = constant  # type: ignore[method-assign]
    # The first fills a batch by itself; the others are alike and would fill one together.
    answers = await answers_to(stand_in, [plain(8), plain(1), plain(1)])
    assert stand_in.sizes == [8, 1, 1]
    assert all([*it.outputs[0].shape] == [2, 1] for it in answers)


# The real thing.


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(messages=requests(stays_valid=True))
def test_a_frontend_answers_as_a_triton_that_is_asked_one_by_one(
    frontend: Any, triton: Any, messages: list[Any]
) -> None:
    own = triton.stub()
    # Triton itself takes no mixture of raw and typed contents.
    alone = [own.ModelInfer(_raw(message), timeout=20) for message in messages]
    for message in messages:
        message.model_name = "single-rowwise"
    calls = [frontend.stub.ModelInfer.future(message, timeout=20) for message in messages]
    for message, call, expected in zip(messages, calls, alone, strict=True):
        expected.model_name, expected.id = message.model_name, message.id
        assert told(call.result()) == expected


def _raw(message: Any) -> Any:
    raw = service_pb2.ModelInferRequest()
    raw.CopyFrom(message)
    for tensor in raw.inputs:
        tensor.ClearField("contents")
    raw.raw_input_contents[:] = contents_of(message)
    return raw
