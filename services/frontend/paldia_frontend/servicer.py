"""Triton's inference protocol, as any Triton or KServe client speaks it."""
# The protocol names its methods.
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2

import paldia
from paldia.core.errors import InvalidArgumentError, PaldiaError, UnsupportedError
from paldia.kit.clock import Clock
from paldia.kit.rpc import Context, code_of
from paldia_frontend.exchange.frames import Ask
from paldia_frontend.exchange.homeward import Homeward
from paldia_frontend.explain import too_large
from paldia_frontend.inventory import Inventory
from paldia_frontend.metrics import Metrics, RequestLog
from paldia_frontend.requests import read_request
from paldia_frontend.routes import Route, RouteTable
from paldia_frontend.streams import StreamSession

InferRequest = Any
StreamResponse = Any

SERVICE_NAME = "inference.GRPCInferenceService"
_VERSION = re.compile(r"0*[1-9][0-9]{0,17}", re.ASCII)
_EXTENSIONS = (
    "classification",
    "sequence",
    "schedule_policy",
    "model_configuration",
    "parameters",
    "statistics",
)
# Metadata that other servers take the model's name from, if the request has none.
_NAMES_IN_METADATA = ("mm-vmodel-id", "seldon-model")


class InferenceService:
    """Serves clients."""

    def __init__(
        self,
        *,
        table: RouteTable,
        homeward: Homeward,
        inventory: Inventory,
        clock: Clock,
        metrics: Metrics,
        requests: RequestLog,
        stop: asyncio.Event,
        message_limit_bytes: int,
        cold_wait_s: float,
    ) -> None:
        self._table = table
        self._homeward = homeward
        self._inventory = inventory
        self._clock = clock
        self._metrics = metrics
        self._requests = requests
        self._stop = stop
        self._message_limit_bytes = message_limit_bytes
        self._cold_wait_s = cold_wait_s

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server serve it."""
        handlers: dict[str, Any] = {}
        for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            make = (
                grpc.stream_stream_rpc_method_handler
                if method.client_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            read = GetMessageClass(method.input_type).FromString
            write = GetMessageClass(method.output_type).SerializeToString
            handlers[method.name] = make(getattr(self, method.name), read, write)
        # This one leaves messages serialised.
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self.ModelInfer)
        server.add_registered_method_handlers(SERVICE_NAME, handlers)

    # Inference.

    async def ModelInfer(self, message: bytes, context: Context) -> bytes:
        """Answer one request; both as serialised, for another worker may be the one that reads."""
        began_s, deadline_s = self._times(context)
        request = read_request(message)
        model = request.model_name or _name_in_metadata(context)
        try:
            route = await self._route(model, request.model_version, len(message), deadline_s)
            if route.is_decoupled:
                raise UnsupportedError(
                    f"model {model!r} gives any number of answers to a request (decoupled); "
                    "ask it by ModelStreamInfer"
                )
            asked = Ask(model, deadline_s, message)
            answer = await self._homeward.infer(route, request, asked)
        except (PaldiaError, asyncio.CancelledError) as error:
            self._count(model, request.id, began_s, error, deadline_s)
            raise
        self._count(model, request.id, began_s, None, deadline_s)
        return answer

    async def ModelStreamInfer(
        self, requests: AsyncIterator[InferRequest], context: Context
    ) -> AsyncIterator[StreamResponse]:
        """Answer a stream of requests."""
        named = _name_in_metadata(context)
        _, deadline_s = self._times(context)
        metadata = dict(context.invocation_metadata() or ())

        def is_ordered(request: InferRequest) -> bool:
            route = self._table.find(request.model_name or named)
            return route is None or not route.is_decoupled

        session = StreamSession(
            lambda request: self._answers(request, named, deadline_s),
            is_ordered,
            self._stop,
            ends_on_error=metadata.get("triton_grpc_error") == "true",
        )
        async with aclosing(session.run(aiter(requests))) as responses:
            async for response in responses:
                yield response

    async def _answers(
        self, request: InferRequest, named: str, deadline_s: float | None
    ) -> AsyncGenerator[StreamResponse, None]:
        """Give the answers to one request of a stream."""
        began_s = self._clock.monotonic_s()
        model, request_id = request.model_name or named, request.id
        message: bytes = request.SerializeToString()
        asked = Ask(model, deadline_s, message)
        try:
            route = await self._route(model, request.model_version, len(message), deadline_s)
            if route.is_decoupled:
                async with aclosing(self._homeward.stream(route, request, asked)) as responses:
                    async for response in responses:
                        yield response
            else:
                answer = service_pb2.ModelInferResponse.FromString(
                    await self._homeward.infer(route, request, asked)
                )
                answer.parameters["triton_final_response"].bool_param = True
                yield service_pb2.ModelStreamInferResponse(infer_response=answer)
        except (PaldiaError, asyncio.CancelledError) as error:
            self._count(model, request_id, began_s, error, deadline_s)
            raise
        self._count(model, request_id, began_s, None, deadline_s)

    async def _route(
        self, model: str, version: str, size_bytes: int, deadline_s: float | None
    ) -> Route:
        if size_bytes > self._message_limit_bytes:
            raise too_large("request", size_bytes, self._message_limit_bytes)
        if version and not _VERSION.fullmatch(version):
            raise InvalidArgumentError(
                f"model version {version[:20]!r} is no whole number above 0; "
                "leave it empty for the one that is loaded"
            )
        patience_s = self._cold_wait_s
        if deadline_s is not None:
            patience_s = min(patience_s, deadline_s - self._clock.monotonic_s())
        return await self._table.servable(model, patience_s)

    # Server and models.

    async def ServerLive(self, request: Any, context: Context) -> Any:
        """Tell that the process lives."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:
        """Tell whether routes have come."""
        ready = self._table.received and not self._stop.is_set()
        return service_pb2.ServerReadyResponse(ready=ready)

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        """Tell name, version and extensions."""
        return service_pb2.ServerMetadataResponse(
            name="paldia", version=paldia.__version__, extensions=_EXTENSIONS
        )

    async def ModelReady(self, request: Any, context: Context) -> Any:
        """Tell whether a model answers without waiting."""
        model = request.name or _name_in_metadata(context)
        ready = await self._inventory.is_ready(model, request.version)
        return service_pb2.ModelReadyResponse(ready=ready)

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        """Describe a model's tensors."""
        model = request.name or _name_in_metadata(context)
        return await self._inventory.metadata(model, request.version)

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        """Give a model's config."""
        model = request.name or _name_in_metadata(context)
        return await self._inventory.config(model, request.version)

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        """Add up what all nodes count."""
        return await self._inventory.statistics(request.name, request.version)

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        """List all models."""
        return await self._inventory.index(only_ready=request.ready)

    # What can't work here.

    async def RepositoryModelLoad(self, request: Any, context: Context) -> NoReturn:
        """Refuse: where a model is loaded is decided by the controller."""
        raise UnsupportedError("models are loaded by deploying them: paldia deploy DIR --slo-ms MS")

    async def RepositoryModelUnload(self, request: Any, context: Context) -> NoReturn:
        """Refuse: where a model is loaded is decided by the controller."""
        raise UnsupportedError(
            f"models are unloaded by undeploying them: paldia undeploy {request.model_name}"
        )

    async def _no_shared_memory(self, request: Any, context: Context) -> NoReturn:
        raise UnsupportedError(
            "shared memory doesn't reach through this server to the machine that runs the model; "
            "send tensors in the request"
        )

    SystemSharedMemoryStatus = _no_shared_memory
    SystemSharedMemoryRegister = _no_shared_memory
    SystemSharedMemoryUnregister = _no_shared_memory
    CudaSharedMemoryStatus = _no_shared_memory
    CudaSharedMemoryRegister = _no_shared_memory
    CudaSharedMemoryUnregister = _no_shared_memory

    async def _no_server_settings(self, request: Any, context: Context) -> NoReturn:
        raise UnsupportedError(
            "trace and log settings belong to one Triton, and this server stands before several; "
            "set them on the nodes"
        )

    TraceSetting = _no_server_settings
    LogSettings = _no_server_settings

    def _times(self, context: Context) -> tuple[float, float | None]:
        now_s, left_s = self._clock.monotonic_s(), context.time_remaining()
        return now_s, None if left_s is None else now_s + left_s

    def _count(
        self,
        model: str,
        request_id: str,
        began_s: float,
        error: BaseException | None,
        deadline_s: float | None,
    ) -> None:
        now_s = self._clock.monotonic_s()
        if error is None:
            code = "OK"
        elif isinstance(error, PaldiaError):
            code = code_of(error).name
        else:
            is_late = deadline_s is not None and now_s >= deadline_s
            code = "DEADLINE_EXCEEDED" if is_late else "CANCELLED"
        # Names that clients make up would make as many time series.
        label = model if self._table.find(model) is not None else ""
        self._metrics.requests.labels(label, code).inc()
        self._metrics.request_seconds.labels(label).observe(now_s - began_s)
        text = "" if error is None else str(error) or code
        self._requests.ended(model, request_id, code, now_s - began_s, text)


def _name_in_metadata(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    return next((str(metadata[key]) for key in _NAMES_IN_METADATA if key in metadata), "")
