"""Against a real gRPC server of the protocol, in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferInput, service_pb2, service_pb2_grpc

from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.load.replay import Outcome, replay
from paldia.load.report import summarise

Answer = Callable[[int, grpc.aio.ServicerContext], Awaitable[None]]


class _Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Tells each payload's number back once `answer` lets it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seen: list[int] = []

    async def ServerLive(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        number = int(np.frombuffer(request.raw_input_contents[0], np.int32)[0])
        self.seen.append(number)
        await self._answer(number, context)
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.parameters["paldia_node"].string_param = f"node-{number}"
        response.parameters["paldia_batch"].int64_param = 3
        return response


@contextlib.asynccontextmanager
async def _serving(answer: Answer) -> AsyncIterator[tuple[str, _Server]]:
    servicer = _Server(answer)
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(0)


def _payload(number: int) -> list[InferInput]:
    tensor = InferInput("number", [1], "INT32")
    tensor.set_data_from_numpy(np.array([number], np.int32))
    return [tensor]


def _payloads(count: int) -> list[list[InferInput]]:
    return [_payload(number) for number in range(count)]


async def _at_once(number: int, context: grpc.aio.ServicerContext) -> None:
    pass


async def test_payloads_take_turns_and_tags_come_back() -> None:
    told: list[Outcome] = []
    async with _serving(_at_once) as (address, server):
        outcomes = await replay(
            address,
            "any",
            _payloads(2),
            [0.0, 0.01, 0.02, 0.03, 0.04],
            deadline_s=10.0,
            on_outcome=told.append,
        )
    assert sorted(server.seen) == [0, 0, 0, 1, 1]
    assert [outcome.code for outcome in outcomes] == ["OK"] * 5
    assert [outcome.intended_s for outcome in outcomes] == [0.0, 0.01, 0.02, 0.03, 0.04]
    assert [outcome.tags["paldia_node"] for outcome in outcomes] == [
        f"node-{index % 2}" for index in range(5)
    ]
    assert all(outcome.tags["paldia_batch"] == 3 for outcome in outcomes)
    assert sorted(told, key=lambda outcome: outcome.intended_s) == outcomes


async def test_a_stalled_server_holds_nothing_back() -> None:
    """An open loop: all requests reach a server that has answered none of them."""
    everyone = asyncio.Event()

    async def stall(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 9:
            everyone.set()
        await everyone.wait()

    async with _serving(stall) as (address, server):
        offsets_s = [index * 0.01 for index in range(10)]
        outcomes = await replay(address, "any", _payloads(10), offsets_s, deadline_s=10.0)
    assert len(server.seen) == 10
    assert {outcome.code for outcome in outcomes} == {"OK"}
    # The first waited for the last to be sent, 90 ms later at the earliest.
    assert outcomes[0].latency_s >= 0.09


async def test_latency_counts_from_when_it_was_meant_to_be_sent() -> None:
    """A stall of the whole process, server and generator, shows in the requests it delayed."""
    stall_s = 1.0

    async def block(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 5:
            loop = asyncio.get_running_loop()
            ends_s = loop.time() + stall_s
            while loop.time() < ends_s:
                pass

    async with _serving(block) as (address, _):
        offsets_s = [index * 0.02 for index in range(30)]
        outcomes = await replay(address, "any", _payloads(30), offsets_s, deadline_s=10.0)
    # Those meant for the first half of the stall, 25 if nothing else were late.
    assert sum(outcome.latency_s > stall_s / 2 for outcome in outcomes) >= 10
    report = summarise(outcomes, slo_s=stall_s / 2)
    assert report.late >= 10
    assert report.lag_max_s > 0.5
    assert report.p99_s is not None
    assert report.p99_s > 0.8


async def test_each_request_has_its_deadline_and_its_code() -> None:
    never = asyncio.Event()

    async def answer(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 0:
            await never.wait()
        if number == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        if number == 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async with _serving(answer) as (address, _):
        outcomes = await replay(address, "any", _payloads(4), [0.0, 0.1, 0.2, 0.3], deadline_s=1.0)
    codes = [outcome.code for outcome in outcomes]
    assert codes == ["DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "OK"]
    assert outcomes[0].latency_s >= 1.0
    report = summarise(outcomes, slo_s=1.0)
    assert (report.expired, report.refused, report.failed, report.in_slo) == (1, 1, 1, 1)


async def test_past_the_limit_requests_are_counted_not_sent() -> None:
    last = asyncio.Event()

    async def hold(number: int, context: grpc.aio.ServicerContext) -> None:
        await last.wait()

    def release(outcome: Outcome) -> None:
        if outcome.code == "UNSENT" and outcome.intended_s == 0.05:
            last.set()

    async with _serving(hold) as (address, server):
        offsets_s = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
        outcomes = await replay(
            address,
            "any",
            [_payload(0)],
            offsets_s,
            deadline_s=10.0,
            in_flight_limit=2,
            on_outcome=release,
        )
    assert [outcome.code for outcome in outcomes] == ["OK"] * 2 + ["UNSENT"] * 4
    assert len(server.seen) == 2
    assert summarise(outcomes, slo_s=10.0).compliance == 2 / 6


async def test_no_server_is_said_at_once() -> None:
    with pytest.raises(UnavailableError, match="no inference server answers at"):
        await replay("127.0.0.1:1", "any", [_payload(0)], [0.0], deadline_s=1.0)
    with pytest.raises(InvalidArgumentError, match="one request at least"):
        await replay("127.0.0.1:1", "any", [], [0.0], deadline_s=1.0)
