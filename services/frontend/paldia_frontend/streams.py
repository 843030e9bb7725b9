"""One client's stream: requests run side by side, answers keep the requests' order.

That is what Triton does for models with one answer to a request; the answers of decoupled
models go out as they come. A stream holds a bounded number of requests and answers, and
reads on only as they are taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from tritonclient.grpc import service_pb2

from paldia.core.errors import (
    InternalError,
    InvalidArgumentError,
    PaldiaError,
    UnavailableError,
)
from paldia.kit.observability import logger

InferRequest = Any
StreamResponse = Any

_PLACES = 128
"""Room for requests of one stream. A request takes a place, and one more for each
`_PLACE_BYTES` of it, for answers are often as large and a reader may be slow."""
_PLACE_BYTES = 2 << 20
_RESPONSES_MOST = 4


class _Room:
    """Places that are taken and given back, several at a time."""

    def __init__(self) -> None:
        self._free = _PLACES
        self._freed = asyncio.Event()

    async def take(self, places: int) -> None:
        """Wait until so many are free, at most all, and take them."""
        while self._free < places:
            self._freed.clear()
            await self._freed.wait()
        self._free -= places

    def give_back(self, places: int) -> None:
        """Free places again."""
        self._free += places
        self._freed.set()


def _places_of(request: InferRequest) -> int:
    size_bytes: int = request.ByteSize()
    return min(_PLACES, 1 + size_bytes // _PLACE_BYTES)


class StreamSession:
    """Answers the requests of one stream."""

    def __init__(
        self,
        answers: Callable[[InferRequest], AsyncGenerator[StreamResponse, None]],
        is_ordered: Callable[[InferRequest], bool],
        stop: asyncio.Event,
        *,
        ends_on_error: bool,
    ) -> None:
        """Give each request to `answers`; with `ends_on_error` a failure ends the stream."""
        self._answers = answers
        self._is_ordered = is_ordered
        self._stop = stop
        self._ends_on_error = ends_on_error
        self._room = _Room()
        # None ends the stream well, an error with its status.
        self._out: asyncio.Queue[StreamResponse | PaldiaError | None] = asyncio.Queue(
            _RESPONSES_MOST
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(
        self, requests: AsyncIterator[InferRequest]
    ) -> AsyncGenerator[StreamResponse, None]:
        """Give the answers to send.

        Raises:
            PaldiaError: what ends the stream.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            while (item := await self._out.get()) is not None:
                if isinstance(item, PaldiaError):
                    raise item
                yield item
        finally:
            tasks = [reader, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[InferRequest]) -> None:
        stopped = asyncio.ensure_future(self._stop.wait())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn.set_result(None)
        end: PaldiaError | None = None
        try:
            while True:
                try:
                    request = await _next_unless(requests, stopped)
                except Exception as error:
                    # What can't be decoded says so itself; else it is over gRPC's size limit.
                    end = (
                        error
                        if isinstance(error, PaldiaError)
                        else InvalidArgumentError(f"the stream can't be read on: {error!r}")
                    )
                    break
                if request is None:
                    break
                places = _places_of(request)
                await self._room.take(places)
                before, turn = turn, asyncio.get_running_loop().create_future()
                task = asyncio.create_task(self._serve(request, places, before, turn))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if stopped.done() and end is None:
                end = UnavailableError("this frontend is stopping; open the stream again")
            while self._tasks:
                await asyncio.wait(self._tasks)
            await self._out.put(end)
        finally:
            stopped.cancel()

    async def _serve(
        self,
        request: InferRequest,
        places: int,
        before: asyncio.Future[None],
        turn: asyncio.Future[None],
    ) -> None:
        """Answer one request: once `before` is done if in order; `turn` tells the next one."""
        is_ordered = self._is_ordered(request)
        if not is_ordered:
            before.add_done_callback(lambda _: _take(turn))
        try:
            async with aclosing(self._answers(request)) as responses:
                async for response in responses:
                    if is_ordered:
                        await before
                    await self._out.put(response)
        except Exception as fault:
            error = fault if isinstance(fault, PaldiaError) else _internal(fault, request)
            if is_ordered:
                await before
            await self._out.put(error if self._ends_on_error else _in_band(error, request.id))
        finally:
            self._room.give_back(places)
            if is_ordered:
                _take(turn)


def _take(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


async def _next_unless(
    requests: AsyncIterator[InferRequest], stopped: asyncio.Future[Any]
) -> InferRequest | None:
    """Give the next request; None if there is none or `stopped` comes first."""
    step = asyncio.ensure_future(anext(requests, None))
    try:
        await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return step.result() if step.done() and not stopped.done() else None
    finally:
        if not step.done():
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


def _internal(fault: Exception, request: InferRequest) -> InternalError:
    logger().exception("stream.request_failed", model=request.model_name, exc_info=fault)
    return InternalError("an internal error; the frontend's log has the details")


def _in_band(error: PaldiaError, request_id: str) -> StreamResponse:
    """Give an error as Triton puts it into a stream."""
    prefix = f"[request id: {request_id}] " if request_id else ""
    response = service_pb2.ModelStreamInferResponse(error_message=f"{prefix}{error}")
    response.infer_response.id = request_id
    return response
