"""Triton's inference protocol, as any Triton or KServe client speaks it."""
# The protocol names its methods.
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn

from tritonclient.grpc import service_pb2, service_pb2_grpc

import paldia
from paldia.core.errors import InvalidArgumentError, PaldiaError, UnsupportedError
from paldia.kit.clock import Clock
from paldia.kit.rpc import Context, code_of
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.explain import too_large
from paldia_frontend.inventory import Inventory
from paldia_frontend.metrics import Metrics, RequestLog
from paldia_frontend.requests import Normalised, normalise
from paldia_frontend.routes import Route, RouteTable
from paldia_frontend.sequences import Sequences
from paldia_frontend.streams import StreamSession

InferRequest = Any
InferResponse = Any
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


class InferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves clients."""

    def __init__(
        self,
        *,
        table: RouteTable,
        dispatcher: Dispatcher,
        inventory: Inventory,
        clock: Clock,
        metrics: Metrics,
        requests: RequestLog,
        stop: asyncio.Event,
        message_limit_bytes: int,
        cold_wait_s: float,
    ) -> None:
        self._table = table
        self._dispatcher = dispatcher
        self._inventory = inventory
        self._sequences = Sequences()
        self._clock = clock
        self._metrics = metrics
        self._requests = requests
        self._stop = stop
        self._message_limit_bytes = message_limit_bytes
        self._cold_wait_s = cold_wait_s

    # Inference.

    async def ModelInfer(self, request: InferRequest, context: Context) -> InferResponse:
        """Answer one request."""
        began_s, deadline_s = self._times(context)
        model = request.model_name or _name_in_metadata(context)
        request_id = request.id
        try:
            route = await self._route(model, request, deadline_s)
            if route.is_decoupled:
                raise UnsupportedError(
                    f"model {model!r} gives any number of answers to a request (decoupled); "
                    "ask it by ModelStreamInfer"
                )
            answer = await self._infer(route, request, deadline_s)
        except (PaldiaError, asyncio.CancelledError) as error:
            self._count(model, request_id, began_s, error, deadline_s)
            raise
        self._count(model, request_id, began_s, None, deadline_s)
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
        try:
            route = await self._route(model, request, deadline_s)
            if route.is_decoupled:
                async with aclosing(self._stream(route, request, deadline_s)) as responses:
                    async for response in responses:
                        yield response
            else:
                answer = await self._infer(route, request, deadline_s)
                answer.parameters["triton_final_response"].bool_param = True
                yield service_pb2.ModelStreamInferResponse(infer_response=answer)
        except (PaldiaError, asyncio.CancelledError) as error:
            self._count(model, request_id, began_s, error, deadline_s)
            raise
        self._count(model, request_id, began_s, None, deadline_s)

    async def _route(self, model: str, request: InferRequest, deadline_s: float | None) -> Route:
        size_bytes = request.ByteSize()
        if size_bytes > self._message_limit_bytes:
            raise too_large("request", size_bytes, self._message_limit_bytes)
        if request.model_version and not _VERSION.fullmatch(request.model_version):
            raise InvalidArgumentError(
                f"model version {request.model_version[:20]!r} is no whole number above 0; "
                "leave it empty for the one that is loaded"
            )
        patience_s = self._cold_wait_s
        if deadline_s is not None:
            patience_s = min(patience_s, deadline_s - self._clock.monotonic_s())
        return await self._table.servable(model, patience_s)

    async def _infer(
        self, route: Route, request: InferRequest, deadline_s: float | None
    ) -> InferResponse:
        asked = _prepared(route, request)
        async with self._sequences.step(
            route.model, asked.sequence_id, is_last=_is_last(request)
        ) as sequence:
            answer = await self._dispatcher.infer(route, asked, deadline_s, sequence.node_id)
            sequence.node_id = answer.parameters["paldia_node"].string_param
            return answer

    async def _stream(
        self, route: Route, request: InferRequest, deadline_s: float | None
    ) -> AsyncGenerator[StreamResponse, None]:
        asked = _prepared(route, request)
        async with self._sequences.step(
            route.model, asked.sequence_id, is_last=_is_last(request)
        ) as sequence:
            responses = self._dispatcher.stream(route, asked, deadline_s, sequence.node_id)
            async with aclosing(responses):
                async for response in responses:
                    parameters = response.infer_response.parameters
                    sequence.node_id = parameters["paldia_node"].string_param
                    yield response

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


def _prepared(route: Route, request: InferRequest) -> Normalised:
    """Check a request and address it to Triton."""
    asked = normalise(request, route.config)
    if asked.priority < 0:
        raise InvalidArgumentError(
            f"parameter 'priority' is 1 for the first, 0 for the middle and more for later, "
            f"not {asked.priority}"
        )
    asked.message.model_name = route.name_in_triton
    return asked


def _is_last(request: InferRequest) -> bool:
    return "sequence_end" in request.parameters and request.parameters["sequence_end"].bool_param


def _name_in_metadata(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    return next((str(metadata[key]) for key in _NAMES_IN_METADATA if key in metadata), "")
