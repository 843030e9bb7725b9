"""What is known of models: from the routes, and from the Tritons where only they know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.core.errors import NotFoundError, NotServableError, UnavailableError
from paldia.kit.rpc import error_of
from paldia_frontend.routes import Route, RouteState, RouteTable
from paldia_frontend.statistics import add_up
from paldia_frontend.upstream import Upstreams

Response = Any

_ANSWER_S = 5.0
_ASKED_AT_ONCE = 32


class Inventory:
    """Answers questions about models."""

    def __init__(self, table: RouteTable, upstreams: Upstreams) -> None:
        self._table = table
        self._upstreams = upstreams
        self._asking = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def is_ready(self, model: str, version: str) -> bool:
        """Whether a model answers without waiting."""
        route = self._table.find(model)
        if route is None or route.state is not RouteState.READY:
            return False
        if not version:
            return True
        request = service_pb2.ModelReadyRequest(name=route.name_in_triton, version=version)
        try:
            return bool((await self._ask_first(route, "ModelReady", request)).ready)
        except UnavailableError:
            return False

    async def metadata(self, model: str, version: str) -> Response:
        """Describe a model's tensors: in Triton's words, or by its config while it is cold.

        Raises:
            NotFoundError: no such model, or no such version of it.
            NotServableError: it has failed.
            UnavailableError: it has not loaded anywhere yet.
        """
        route = self._known(model)
        if route.plan.lanes:
            request = service_pb2.ModelMetadataRequest(name=route.name_in_triton, version=version)
            try:
                answer = await self._ask_first(route, "ModelMetadata", request)
                answer.name = model
            except UnavailableError:
                if version:
                    raise
            else:
                return answer
        if version:
            raise UnavailableError(f"model {model!r} is not loaded, so its versions aren't known")
        return _described(route)

    async def config(self, model: str, version: str) -> Response:
        """Give a model's config as Triton completed it.

        Raises:
            NotFoundError: no such model, or no such version of it.
            NotServableError: it has failed.
            UnavailableError: it has not loaded anywhere yet.
        """
        route = self._known(model)
        if version:
            await self.metadata(model, version)
        answer = service_pb2.ModelConfigResponse(config=route.config)
        answer.config.name = model
        return answer

    async def statistics(self, model: str, version: str) -> Response:
        """Add up what all nodes count of a model, or of every one if `model` is empty.

        Raises:
            NotFoundError: no such model, or no such version of it.
            UnavailableError: none of its nodes answers.
        """
        routes = [self._table.get(model)] if model else self._table.routes()
        parts = await asyncio.gather(*(self._statistics(route, version) for route in routes))
        counted = add_up(part for some in parts for part in some)
        if model and version and not counted:
            raise NotFoundError(f"no version {version} of model {model!r} is loaded")
        return service_pb2.ModelStatisticsResponse(model_stats=counted)

    async def index(self, *, only_ready: bool) -> Response:
        """List all models with their state."""
        routes = [
            route
            for route in self._table.routes()
            if not only_ready or route.state is RouteState.READY
        ]
        versions = await asyncio.gather(*(self._versions(route) for route in routes))
        index = service_pb2.RepositoryIndexResponse()
        for route, version in zip(routes, versions, strict=True):
            ready = route.state is RouteState.READY
            index.models.add(
                name=route.model,
                version=version,
                state="READY" if ready else "UNAVAILABLE",
                reason="" if ready else route.reason or route.state.value,
            )
        return index

    def _known(self, model: str) -> Route:
        route = self._table.get(model)
        if route.config is not None:
            return route
        if route.state is RouteState.FAILED:
            raise NotServableError(f"model {model!r} can't be served: {route.reason}")
        raise UnavailableError(f"model {model!r} is still loading: {route.reason}")

    async def _versions(self, route: Route) -> str:
        if route.state is not RouteState.READY:
            return ""
        try:
            request = service_pb2.ModelMetadataRequest(name=route.name_in_triton)
            return ",".join((await self._ask_first(route, "ModelMetadata", request)).versions)
        except (UnavailableError, NotFoundError):
            return ""

    async def _statistics(self, route: Route, version: str) -> Sequence[Response]:
        if not route.plan.lanes:
            return []
        request = service_pb2.ModelStatisticsRequest(name=route.name_in_triton, version=version)
        answers = await asyncio.gather(
            *(self._ask(endpoint, "ModelStatistics", request) for endpoint in route.endpoints),
            return_exceptions=True,
        )
        heard = [answer for answer in answers if not isinstance(answer, BaseException)]
        errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        if not heard and all(it.code() is not grpc.StatusCode.INVALID_ARGUMENT for it in errors):
            raise UnavailableError(
                f"no node of {route.model!r} answers: "
                + "; ".join(error.details() or error.code().name for error in errors)
            )
        parts = [part for answer in heard for part in answer.model_stats]
        for part in parts:
            part.name = route.model
        return parts

    async def _ask_first(self, route: Route, method: str, request: Any) -> Response:
        """Ask one lane after another until one answers.

        Raises:
            UnavailableError: none does.
            PaldiaError: what the first that answers objects to.
        """
        reason = "it has no nodes"
        for endpoint in route.endpoints:
            try:
                return await self._ask(endpoint, method, request)
            except grpc.aio.AioRpcError as failed:
                if failed.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                ):
                    raise error_of(failed) from failed
                reason = failed.details() or failed.code().name
        raise UnavailableError(f"no node of {route.model!r} answers: {reason}")

    async def _ask(self, endpoint: str, method: str, request: Any) -> Response:
        upstream = self._upstreams.acquire(endpoint)
        try:
            async with self._asking:
                return await getattr(upstream.stub, method)(request, timeout=_ANSWER_S)
        finally:
            self._upstreams.release(upstream)


def _described(route: Route) -> Response:
    config = route.config
    answer = service_pb2.ModelMetadataResponse(
        name=route.model, platform=(config.platform or config.backend) if config else ""
    )
    if config is None:
        return answer
    batch = [-1] if config.max_batch_size > 0 else []
    for listed, tensors in ((answer.inputs, config.input), (answer.outputs, config.output)):
        for tensor in tensors:
            datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
            listed.add(
                name=tensor.name,
                datatype="BYTES" if datatype == "STRING" else datatype,
                shape=[*batch, *tensor.dims],
            )
    return answer
