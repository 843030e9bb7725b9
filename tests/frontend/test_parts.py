"""Parts that are easier to see alone: verdicts, connections, sequences, sums."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from paldia_frontend.batches import BatchFailedError, infer
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.metrics import Metrics
from paldia_frontend.requests import Normalised
from paldia_frontend.routes import RouteState, RouteTable, endpoints_of, route_from_proto
from paldia_frontend.sequences import Sequences
from paldia_frontend.statistics import add_up
from paldia_frontend.upstream import Upstreams, judge
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.api.convert import duration
from paldia.api.v1 import routing_pb2, types_pb2
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.types import Dispatch, Retry
from paldia.core.errors import (
    ExpiredError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
)
from paldia.kit.clock import SystemClock

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "how", "retry", "error"),
    [
        (Code.UNAVAILABLE, "Socket closed", {}, Retry.ELSEWHERE, UnavailableError),
        (Code.UNAVAILABLE, "Socket closed", {"is_merged": True}, Retry.ELSEWHERE, UnavailableError),
        (Code.UNAVAILABLE, "Request timeout expired", {}, Retry.NO, OverloadedError),
        (Code.UNAVAILABLE, "Request timeout expired", {"timed": True}, Retry.NO, ExpiredError),
        (Code.UNAVAILABLE, "Exceeds maximum queue size", {}, Retry.NO, OverloadedError),
        (
            Code.UNAVAILABLE,
            "Exceeds maximum queue size",
            {"is_merged": True},
            Retry.ALONE,
            OverloadedError,
        ),
        (Code.NOT_FOUND, "unknown model", {}, Retry.ELSEWHERE, UnavailableError),
        (Code.NOT_FOUND, "version 3", {"has_version": True}, Retry.NO, NotFoundError),
        (Code.INVALID_ARGUMENT, "bad", {}, Retry.NO, InvalidArgumentError),
        (Code.INVALID_ARGUMENT, "bad", {"is_merged": True}, Retry.ALONE, InvalidArgumentError),
        (Code.INTERNAL, "raised", {"is_merged": True}, Retry.ALONE, InternalError),
        (Code.RESOURCE_EXHAUSTED, "larger than max", {}, Retry.NO, TooLargeError),
        (Code.DEADLINE_EXCEEDED, "", {"is_merged": True}, Retry.NO, ExpiredError),
    ],
)
def test_tritons_errors_are_understood(
    code: Code, details: str, how: dict[str, bool], retry: Retry, error: type[PaldiaError]
):
    failed = AioRpcError(code, Metadata(), Metadata(), details=details)
    usual = {"is_merged": False, "has_version": False, "timed": False}
    verdict = judge(failed, "node-1", **{**usual, **how})
    assert (verdict.retry, type(verdict.error)) == (retry, error)
    assert details in str(verdict.error)


class Stub:
    """A Triton that fails, or keeps what it was sent."""

    def __init__(self, error: AioRpcError | None = None) -> None:
        self.error = error
        self.sent: Any = None
        self.stub = self
        self.emulated = False

    async def ModelInfer(self, message: Any, timeout: float | None) -> Any:  # noqa: N802
        self.sent = message
        if self.error is not None:
            raise self.error
        return service_pb2.ModelInferResponse()


def asked(timeout_s: float | None, sequence_id: int | None = None) -> Normalised:
    message = service_pb2.ModelInferRequest(raw_input_contents=[b"1"])
    message.inputs.add(name="X", shape=[1])
    return Normalised(message, 1, None, 1, 0, timeout_s, sequence_id)


BATCH = Dispatch(1, "m", "lane", "node", (1, 2), 2)


async def test_request_for_a_cold_model_hurries_the_report():
    table, upstreams = RouteTable(waiting_limit=1), Upstreams(1 << 20)
    kernel = DispatchKernel()
    dispatcher = Dispatcher(
        kernel,
        upstreams,
        SystemClock(),
        Metrics(),
        message_limit_bytes=1 << 20,
        on_cold_wait=table.hurry.set,
    )
    news = routing_pb2.ConnectFrontendResponse(snapshot=True, routes=[route(config())])
    dispatcher.take_routes(*table.apply(news))
    call = asyncio.create_task(dispatcher.infer(table.get("m"), asked(None), None))
    await asyncio.wait_for(table.hurry.wait(), 20)
    assert kernel.counters["m"].backlog == 1
    call.cancel()
    await asyncio.wait([call])
    assert kernel.counters["m"].backlog == 0
    await upstreams.close()


async def test_tightest_timeout_of_a_batch_holds():
    stub = Stub()
    await infer(stub, BATCH, [asked(3.0), asked(None), asked(2.0)], None, {})
    assert stub.sent.parameters["timeout"].int64_param == 2_000_000
    await infer(stub, BATCH, [asked(2.0**64 / 1e6)], None, {})
    assert stub.sent.parameters["timeout"].int64_param == 2**63 - 1
    await infer(stub, BATCH, [asked(None)], None, {})
    assert "timeout" not in stub.sent.parameters


async def test_step_of_a_sequence_is_never_taken_twice():
    stub = Stub(AioRpcError(Code.UNAVAILABLE, Metadata(), Metadata(), details="Socket closed"))
    for sequence_id, retry in ((None, Retry.ELSEWHERE), (7, Retry.NO)):
        with pytest.raises(BatchFailedError) as caught:
            await infer(stub, BATCH, [asked(None, sequence_id)], None, {})
        assert caught.value.verdict.retry is retry


@pytest.mark.parametrize("emulated", [False, True])
async def test_an_answer_says_that_it_comes_from_an_emulated_node(emulated: bool):
    stub = Stub()
    stub.emulated = emulated
    for answer in (await infer(stub, BATCH, [asked(None)], None, {})).answers:
        assert answer.parameters["paldia_node"].string_param == BATCH.node_id
        assert ("paldia_emulated" in answer.parameters) is emulated
        assert answer.parameters["paldia_emulated"].bool_param is emulated


def test_a_route_knows_which_of_its_endpoints_are_emulated():
    message = routing_pb2.ModelRoute(
        model="m",
        state=routing_pb2.ROUTE_STATE_READY,
        slo=types_pb2.Slo(latency=duration(1.0), share=0.99),
        lanes=[
            routing_pb2.Lane(node_id="a", endpoint="a:1"),
            routing_pb2.Lane(node_id="b", endpoint="b:1", emulated=True),
        ],
    )
    assert endpoints_of([route_from_proto(message)]) == {"a:1": False, "b:1": True}


async def test_connection_is_kept_until_it_is_neither_routed_nor_used():
    upstreams = Upstreams(1 << 20)
    upstreams.route({"127.0.0.1:1": False, "127.0.0.1:2": True})
    used = upstreams.acquire("127.0.0.1:1")
    upstreams.route({})
    assert list(upstreams._known) == ["127.0.0.1:1"]
    upstreams.route({"127.0.0.1:1": True})
    assert upstreams.acquire("127.0.0.1:1") is used, "back before it was let go"
    upstreams.route({})
    upstreams.release(used)
    assert list(upstreams._known) == ["127.0.0.1:1"]
    upstreams.release(used)
    assert not upstreams._known
    await upstreams.close()


async def test_steps_of_a_sequence_take_turns_in_order():
    sequences, order = Sequences(), []

    async def step(number: int) -> None:
        async with sequences.step("m", 1, is_last=False) as sequence:
            order.append((number, sequence.node_id))
            await asyncio.sleep(0)
            sequence.node_id = f"node-{number}"

    await asyncio.gather(*(step(number) for number in range(3)))
    assert order == [(0, None), (1, "node-0"), (2, "node-1")]


async def test_sequences_are_bounded_and_the_idle_go_first():
    sequences = Sequences(most=2)
    async with sequences.step("m", "old", is_last=False) as old:
        old.node_id = "node"
    async with sequences.step("m", "busy", is_last=False):
        async with sequences.step("m", "new", is_last=False):
            with pytest.raises(OverloadedError):
                async with sequences.step("m", "more", is_last=False):
                    pass
        async with sequences.step("m", "old", is_last=False) as old:
            assert old.node_id is None, "forgotten to make room"


async def test_ended_sequence_is_forgotten():
    sequences = Sequences()
    async with sequences.step("m", 1, is_last=True) as sequence:
        sequence.node_id = "node"
    assert not sequences._known
    async with sequences.step("m", None, is_last=False) as sequence:
        assert sequence.node_id is None
    assert not sequences._known


def statistics(name: str, count: int, batch: int, last: int = 0, memory: int = 0) -> Any:
    part = service_pb2.ModelStatistics(
        name=name, version="1", inference_count=count, execution_count=1, last_inference=last
    )
    part.inference_stats.success.count = count
    part.inference_stats.success.ns = 10 * count
    executed = part.batch_stats.add(batch_size=batch)
    executed.compute_infer.count = count
    part.response_stats["0"].success.count = count
    if memory:
        part.memory_usage.add(type="CPU", id=0, byte_size=memory)
    return part


def test_statistics_add_up_by_model():
    parts = [
        statistics("b", 1, 4, last=5),
        statistics("a", 2, 1),
        statistics("b", 3, 2, last=9, memory=100),
        statistics("b", 5, 4, last=7, memory=10),
    ]
    a, b = add_up(parts)
    assert (a.name, a.inference_count) == ("a", 2)
    assert (b.inference_count, b.execution_count, b.last_inference) == (9, 3, 9)
    assert (b.inference_stats.success.count, b.inference_stats.success.ns) == (9, 90)
    assert [(it.batch_size, it.compute_infer.count) for it in b.batch_stats] == [(2, 3), (4, 6)]
    assert b.response_stats["0"].success.count == 9
    assert [it.byte_size for it in b.memory_usage] == [110]
    assert parts[0].inference_count == 1, "the parts are left as they were"


def route(config: Any = None, **fields: Any) -> routing_pb2.ModelRoute:
    slo = types_pb2.Slo(latency=duration(1), share=0.9)
    raw = config.SerializeToString() if config is not None else b""
    return routing_pb2.ModelRoute(**{"model": "m", "slo": slo, "model_config": raw, **fields})


def config(**fields: Any) -> Any:
    return model_config_pb2.ModelConfig(**{"name": "m", "max_batch_size": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "merges"),
    [
        ({}, True),
        ({"max_batch_size": 0}, False),
        ({"max_batch_size": 1}, False),
        ({"sequence_batching": model_config_pb2.ModelSequenceBatching()}, False),
        ({"input": [model_config_pb2.ModelInput(name="X", allow_ragged_batch=True)]}, False),
        ({"batch_input": [model_config_pb2.BatchInput(target_name=["X"])]}, False),
        ({"batch_output": [model_config_pb2.BatchOutput(target_name=["X"])]}, False),
        ({"input": [model_config_pb2.ModelInput(name="X", is_shape_tensor=True)]}, False),
        ({"output": [model_config_pb2.ModelOutput(name="X", is_shape_tensor=True)]}, False),
    ],
)
def test_rows_of_requests_are_laid_end_to_end_only_where_they_are_independent(
    fields: dict[str, Any], merges: bool
):
    assert route_from_proto(route(config(**fields))).merges is merges


def test_route_with_odd_lanes_is_made_sense_of():
    lanes = [
        routing_pb2.Lane(endpoint="a:1", node_id="a", count=0, batch_size=0, slowdown=0),
        routing_pb2.Lane(endpoint="a:1", node_id="a", count=2, batch_size=4, slowdown=1.5),
        routing_pb2.Lane(endpoint="b:1", node_id="b"),
    ]
    made = route_from_proto(route(config(), lanes=lanes))
    lanes = made.plan.lanes
    assert [(it.lane_id, it.count, it.batch_limit, it.slowdown_of(it.count)) for it in lanes] == [
        ("a:1", 2, 4, 1.5),
        ("b:1", 1, 1, 1.0),
    ]
    assert made.state is RouteState.READY


def test_a_route_says_how_to_dispatch():
    plain = route_from_proto(route(config())).plan
    assert (plain.late_yields, plain.linger_s, plain.learns) == (True, 0.0, True)
    told = {"late_keep_turn": True, "linger": duration(0.2), "unteachable": True}
    other = route_from_proto(route(config(), **told)).plan
    assert (other.late_yields, other.linger_s, other.learns) == (False, 0.2, False)


def test_route_without_sense_is_a_failed_one():
    for broken in (route(slo=types_pb2.Slo()), route(model_config=b"\xff\xff")):
        made = route_from_proto(broken)
        assert made.state is RouteState.FAILED
        assert "makes no sense" in made.reason


async def test_snapshot_replaces_and_changes_add():
    table = RouteTable(waiting_limit=1)
    with pytest.raises(UnavailableError):
        table.get("m")
    both = [route(config()), route(config(), model="n")]
    table.apply(routing_pb2.ConnectFrontendResponse(snapshot=True, routes=both))
    assert [it.model for it in table.routes()] == ["m", "n"]
    news = routing_pb2.ConnectFrontendResponse(routes=[route(config(), model="o")], removed=["n"])
    changed, gone = table.apply(news)
    assert ([it.model for it in changed], gone) == (["o"], ["n"])
    _, gone = table.apply(routing_pb2.ConnectFrontendResponse(snapshot=True, routes=both[:1]))
    assert gone == ["o"]
    assert [it.model for it in table.routes()] == ["m"]


async def test_only_so_many_wait_for_a_model_to_become_known():
    table = RouteTable(waiting_limit=1)
    table.apply(routing_pb2.ConnectFrontendResponse(snapshot=True, routes=[route()]))
    first = asyncio.create_task(table.servable("m", 60))
    await asyncio.sleep(0)
    assert table.hurry.is_set()
    with pytest.raises(UnavailableError, match="loading"):
        await table.servable("m", 60)
    table.apply(routing_pb2.ConnectFrontendResponse(routes=[route(config())]))
    assert (await first).config.name == "m"
    assert table.waiting("m") == 0
