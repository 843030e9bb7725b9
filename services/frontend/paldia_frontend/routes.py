"""Where requests go: the routes last heard of, kept when the controller is gone."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2

from paldia.api import convert
from paldia.api.v1 import routing_pb2
from paldia.core.dispatch.lanes import Lane, linear_slowdowns
from paldia.core.dispatch.types import ModelPlan
from paldia.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    UnavailableError,
)
from paldia.core.types import Slo
from paldia.kit.lifecycle import wait_any


class RouteState(enum.Enum):
    """Whether a model takes requests."""

    READY = "ready"
    LOADING = "loading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Source:
    """What a lane's figures were made from.

    Attributes:
        digest: the artifact that was measured.
        correction: factor by which its times were corrected by what was seen.
    """

    digest: str
    correction: float


@dataclass(frozen=True, slots=True)
class Route:
    """How one model is reached.

    Attributes:
        plan: its lanes, by endpoint, and its objective.
        config: inference.ModelConfig, None until the model has loaded anywhere.
        emulated: those of the endpoints that stand for hardware which isn't there.
        merges: whether rows of several requests may be laid end to end in one.
        sources: where the lanes' figures are from, by endpoint.
        home: the worker of this frontend that has its queue.
        output_ranks: how many dimensions its outputs have by its config, that of the batch
            included, by name.
    """

    model: str
    generation: int
    state: RouteState
    reason: str
    plan: ModelPlan
    config: Any | None
    merges: bool = False
    emulated: frozenset[str] = frozenset()
    sources: Mapping[str, Source] = field(default_factory=dict)
    home: int = 0
    output_ranks: Mapping[str, int] = field(default_factory=dict)

    @property
    def name_in_triton(self) -> str:
        """What Triton calls the model."""
        return self.config.name if self.config is not None and self.config.name else self.model

    @property
    def is_decoupled(self) -> bool:
        """Whether a request may have any number of answers."""
        return self.config is not None and self.config.model_transaction_policy.decoupled

    @property
    def is_served(self) -> bool:
        """Whether requests can be taken: to be answered now, or once it is loaded."""
        return self.state is not RouteState.FAILED and self.config is not None

    @property
    def endpoints(self) -> list[str]:
        """Where its Tritons listen."""
        return [lane.lane_id for lane in self.plan.lanes]


def route_from_proto(message: routing_pb2.ModelRoute) -> Route:
    """Decode a route; one that makes no sense is a failed one that says so."""
    if message.state == routing_pb2.ROUTE_STATE_FAILED:
        # It may have neither objective nor config; the reason is all that counts.
        plan = ModelPlan((), Slo(1.0))
        return Route(
            message.model, message.generation, RouteState.FAILED, message.reason, plan, None
        )
    try:
        plan = ModelPlan(
            lanes=_lanes(message.lanes),
            slo=convert.slo_from_proto(message.slo),
            on_overload=convert.overload_from_proto(message.on_overload),
            slo_unreachable=message.slo_unreachable,
            late_yields=not message.late_keep_turn,
            linger_s=max(0.0, convert.seconds(message.linger)),
            learns=not message.unteachable,
        )
        config = model_config_pb2.ModelConfig()
        config.ParseFromString(message.model_config)
    except (InvalidArgumentError, DecodeError) as error:
        reason = f"the controller sent a route that makes no sense: {error}"
        plan = ModelPlan((), Slo(1.0))
        return Route(message.model, message.generation, RouteState.FAILED, reason, plan, None)
    state = RouteState.READY if plan.lanes and message.model_config else RouteState.LOADING
    return Route(
        message.model,
        message.generation,
        state,
        message.reason,
        plan,
        config if message.model_config else None,
        _merges(config),
        frozenset(lane.endpoint for lane in message.lanes if lane.emulated),
        {it.endpoint: Source(it.artifact_digest, it.correction or 1.0) for it in message.lanes},
        message.home,
        {tensor.name: 1 + len(tensor.dims) for tensor in config.output},
    )


def _merges(config: Any) -> bool:
    """Whether rows are independent of the request they come in.

    Steps of a sequence are not, nor what a model learns of each request's own shape.
    """
    return (
        config.max_batch_size > 1
        and not config.HasField("sequence_batching")
        and not config.batch_input
        and not config.batch_output
        and not any(tensor.allow_ragged_batch for tensor in config.input)
        and not any(tensor.is_shape_tensor for tensor in (*config.input, *config.output))
    )


def _lanes(messages: Iterable[routing_pb2.Lane]) -> tuple[Lane, ...]:
    lanes = {
        message.endpoint: Lane(
            lane_id=message.endpoint,
            node_id=message.node_id,
            count=max(1, message.count),
            batch_limit=max(1, message.batch_size),
            points=tuple(
                (point.batch_size, convert.seconds(point.latency)) for point in message.points
            ),
            slowdowns=tuple(max(1.0, it) for it in message.slowdowns)
            or linear_slowdowns(max(1, message.count), max(1.0, message.slowdown)),
        )
        for message in messages
    }
    return tuple(lanes.values())


def endpoints_of(routes: Iterable[Route]) -> dict[str, bool]:
    """Give the endpoints of routes, each with whether it is emulated."""
    return {it: it in route.emulated for route in routes for it in route.endpoints}


class RouteTable:
    """The routes of all models, and those who wait for one to become known.

    `hurry` is set when a request has to wait for a model that is not loaded.
    """

    def __init__(self, waiting_limit: int) -> None:
        self.received = False
        self.hurry = asyncio.Event()
        self._waiting_limit = waiting_limit
        self._routes: dict[str, Route] = {}
        self._waiting: dict[str, int] = {}
        self._changed = asyncio.Event()

    def routes(self) -> list[Route]:
        """Give all routes by name."""
        return [route for _, route in sorted(self._routes.items())]

    def find(self, model: str) -> Route | None:
        """Give a model's route, if there is one."""
        return self._routes.get(model)

    def get(self, model: str) -> Route:
        """Give a model's route.

        Raises:
            UnavailableError: no routes have come yet.
            NotFoundError: no such model.
        """
        if not self.received:
            raise UnavailableError("this frontend has not heard from its controller yet; try again")
        route = self._routes.get(model)
        if route is None:
            raise NotFoundError.of("model", model)
        return route

    def waiting(self, model: str) -> int:
        """Count the requests that wait for a model's config."""
        return self._waiting.get(model, 0)

    async def servable(self, model: str, patience_s: float) -> Route:
        """Give a route whose config is known, waiting for the model's first load if need be.

        Raises:
            UnavailableError: no routes yet, or still loading after `patience_s`.
            NotFoundError: no such model.
            NotServableError: it has failed.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_s
        while True:
            route = self.get(model)
            if route.state is RouteState.FAILED:
                raise NotServableError(f"model {model!r} can't be served: {route.reason}")
            if route.config is not None:
                return route
            left_s = until_s - loop.time()
            if left_s <= 0 or self.waiting(model) >= self._waiting_limit:
                raise UnavailableError(f"model {model!r} is still loading: {route.reason}")
            self._waiting[model] = self.waiting(model) + 1
            self.hurry.set()
            try:
                await wait_any([self._changed.wait()], left_s)
            finally:
                self._waiting[model] -= 1

    def apply(self, news: routing_pb2.ConnectFrontendResponse) -> tuple[list[Route], list[str]]:
        """Take in what the controller sent; give the routes that changed and those gone."""
        changed = [route_from_proto(message) for message in news.routes]
        gone = list(news.removed)
        if news.snapshot:
            listed = {route.model for route in changed}
            gone = sorted(name for name in self._routes if name not in listed)
        for name in gone:
            self._routes.pop(name, None)
        self._routes.update((route.model, route) for route in changed)
        self.received = True
        self._changed.set()
        self._changed = asyncio.Event()
        return changed, gone
