"""Where a request goes: to the queue of its model, in this worker or in another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from tritonclient.grpc import service_pb2

from paldia.core.errors import NotFoundError, UnavailableError
from paldia_frontend.exchange.frames import Ask
from paldia_frontend.exchange.peers import PeerLostError, Peers
from paldia_frontend.home import Home
from paldia_frontend.requests import SEQUENCE_PARAMETERS
from paldia_frontend.routes import Route

InferRequest = Any
StreamResponse = Any


class Homeward:
    """Gets answers from the worker that has the model's queue.

    Where that one is gone, or hasn't heard of the model yet, the request is queued here: every
    worker knows all routes, and soon they say who has the queue now.
    """

    def __init__(self, slot: int, home: Home, peers: Peers) -> None:
        self._slot = slot
        self._home = home
        self._peers = peers

    async def infer(self, route: Route, request: InferRequest, asked: Ask) -> bytes:
        """Get one answer, serialised.

        Args:
            route: the model's.
            request: what is asked; read from `asked.message`.
            asked: the same, for another worker.

        Raises:
            PaldiaError: why there is none.
        """
        if route.home not in (0, self._slot):
            try:
                return await self._peers.infer(route.home, asked)
            except (PeerLostError, NotFoundError) as error:
                _check_repeatable(request, error)
        answer = await self._home.infer(route, request, asked.deadline_s)
        serialised: bytes = answer.SerializeToString()
        return serialised

    async def stream(
        self, route: Route, request: InferRequest, asked: Ask
    ) -> AsyncGenerator[StreamResponse, None]:
        """Get any number of answers, as a decoupled model gives them.

        Raises:
            PaldiaError: why there are none, or no more.
        """
        if route.home not in (0, self._slot):
            began = False
            try:
                async with aclosing(self._peers.stream(route.home, asked)) as answers:
                    async for answer in answers:
                        began = True
                        yield service_pb2.ModelStreamInferResponse.FromString(answer)
                return
            except (PeerLostError, NotFoundError) as error:
                if began:
                    raise _gone(error) from error
                _check_repeatable(request, error)
        async with aclosing(self._home.stream(route, request, asked.deadline_s)) as responses:
            async for response in responses:
                yield response


def _check_repeatable(request: InferRequest, error: Exception) -> None:
    """Refuse to send a step of a sequence again: it may have been taken already."""
    if isinstance(error, PeerLostError) and any(
        name in request.parameters for name in SEQUENCE_PARAMETERS
    ):
        raise _gone(error) from error


def _gone(error: Exception) -> UnavailableError:
    return UnavailableError(f"the process of this frontend that had the request is gone: {error}")
