"""Answers requests for the models whose queue is in this process.

A model's queue is in one worker of a frontend alone, so batches are as full, and predictions as
exact, as if there were no other workers: whoever takes a request in sends it there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from paldia.core.errors import InvalidArgumentError
from paldia.kit.clock import Clock
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.exchange.frames import Ask
from paldia_frontend.requests import Normalised, normalise, read_request
from paldia_frontend.routes import Route, RouteTable
from paldia_frontend.sequences import Sequences

InferRequest = Any
InferResponse = Any
StreamResponse = Any

_NEWS_S = 1.0


class Home:
    """Queues, sequences and batches of this worker's models."""

    def __init__(self, table: RouteTable, dispatcher: Dispatcher, clock: Clock) -> None:
        self._table = table
        self._dispatcher = dispatcher
        self._clock = clock
        self._sequences = Sequences()

    async def infer(
        self, route: Route, request: InferRequest, deadline_s: float | None
    ) -> InferResponse:
        """Get one answer.

        Raises:
            PaldiaError: why there is none.
        """
        asked = _prepared(route, request)
        async with self._sequences.step(
            route.model, asked.sequence_id, is_last=_is_last(request)
        ) as sequence:
            answer = await self._dispatcher.infer(route, asked, deadline_s, sequence.node_id)
            sequence.node_id = answer.parameters["paldia_node"].string_param
            return answer

    async def stream(
        self, route: Route, request: InferRequest, deadline_s: float | None
    ) -> AsyncGenerator[StreamResponse, None]:
        """Get any number of answers, as a decoupled model gives them.

        Raises:
            PaldiaError: why there are none, or no more.
        """
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

    # For other workers.

    async def answer(self, asked: Ask) -> bytes:
        """Get one answer for another worker; raises as `infer` does."""
        route, request = await self._route(asked), read_request(asked.message)
        answer: bytes = (await self.infer(route, request, asked.deadline_s)).SerializeToString()
        return answer

    async def answers(self, asked: Ask) -> AsyncGenerator[bytes, None]:
        """Get any number of answers for another worker; raises as `stream` does."""
        route, request = await self._route(asked), read_request(asked.message)
        async with aclosing(self.stream(route, request, asked.deadline_s)) as responses:
            async for response in responses:
                yield response.SerializeToString()

    async def _route(self, asked: Ask) -> Route:
        """Give the route that the other worker has, too: this one may hear of it a moment later."""
        patience_s = _NEWS_S
        if asked.deadline_s is not None:
            patience_s = min(patience_s, asked.deadline_s - self._clock.monotonic_s())
        return await self._table.servable(asked.model, patience_s)


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
