"""A real gRPC server of the protocol, in this process, that does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from paldia.load.inputs import encoded_arrays

Answer = Callable[[int, grpc.aio.ServicerContext], Awaitable[None]]
ANY = "any"


class EchoServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Tells each payload's number back once `answer` lets it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seen: list[int] = []
        self.peers: set[str] = set()
        self.metadata: set[tuple[str, str]] = set()
        self.is_empty = False
        self.address = ""
        self._awaited = 0
        self._reached = asyncio.Event()

    async def asked(self, times: int) -> None:
        """Wait until it has been asked so many times."""
        self._awaited = times
        await self._reached.wait()

    async def ServerLive(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelMetadata(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelMetadataResponse:
        if request.name != ANY:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model named {request.name!r}")
        response = service_pb2.ModelMetadataResponse(name=request.name)
        response.inputs.add(name="number", datatype="INT32", shape=[-1])
        response.outputs.add(name="same", datatype="INT32", shape=[-1])
        return response

    async def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        if [tensor.name for tensor in request.inputs] != ["number"]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there must be a number")
        number = int(np.frombuffer(request.raw_input_contents[0], np.int32)[0])
        self.seen.append(number)
        if len(self.seen) >= self._awaited > 0:
            self._reached.set()
        self.peers.add(context.peer())
        self.metadata.update((key, value) for key, value in context.invocation_metadata() or ())
        await self._answer(number, context)
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.parameters["paldia_node"].string_param = f"node-{number}"
        response.parameters["paldia_batch"].int64_param = 3
        if not self.is_empty:
            response.outputs.add(name="same", datatype="INT32", shape=[1])
            response.raw_output_contents.append(request.raw_input_contents[0])
        return response


@contextlib.asynccontextmanager
async def _serving(answer: Answer) -> AsyncIterator[EchoServer]:
    servicer = EchoServer(answer)
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(0)


Serving = Callable[[Answer], contextlib.AbstractAsyncContextManager[EchoServer]]


@pytest.fixture
def serving() -> Serving:
    """Give a function that serves while a context lasts, a coroutine deciding on each answer."""
    return _serving


@pytest.fixture
async def echo() -> AsyncIterator[EchoServer]:
    """Give a server that answers at once."""

    async def at_once(number: int, context: grpc.aio.ServicerContext) -> None:
        await asyncio.sleep(0)

    async with _serving(at_once) as server:
        yield server


@pytest.fixture
def payloads() -> Callable[[int], list[bytes]]:
    """Give a function that makes so many requests, numbered from 0."""

    def make(count: int) -> list[bytes]:
        return [
            encoded_arrays(ANY, {"number": np.array([number], np.int32)}) for number in range(count)
        ]

    return make
