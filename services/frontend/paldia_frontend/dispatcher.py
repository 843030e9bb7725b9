"""Drives the dispatch kernel: callers wait on futures, batches run as tasks.

The kernel decides, this does. All of it runs on one event loop, and nothing here waits but
for Triton, so no request holds up another.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.requests import Request
from paldia.core.dispatch.types import Dispatch, Expire, Fail, Refuse, Retry
from paldia.core.errors import InternalError, NotFoundError, PaldiaError
from paldia.kit.clock import Clock
from paldia.kit.observability import logger
from paldia_frontend import batches, explain
from paldia_frontend.batches import BatchFailedError
from paldia_frontend.checks import Checks
from paldia_frontend.effort import Effort
from paldia_frontend.mergeable import Mergeable
from paldia_frontend.metrics import Metrics
from paldia_frontend.pending import Pending, time_left_s
from paldia_frontend.requests import Normalised
from paldia_frontend.routes import Route, endpoints_of
from paldia_frontend.upstream import Upstream, Upstreams, Verdict

InferResponse = Any
StreamResponse = Any


class Dispatcher:
    """Gets requests answered."""

    def __init__(
        self,
        kernel: DispatchKernel,
        upstreams: Upstreams,
        clock: Clock,
        metrics: Metrics,
        *,
        message_limit_bytes: int,
        on_cold_wait: Callable[[], None],
    ) -> None:
        """Call `on_cold_wait` whenever a request comes for a model without lanes."""
        self._kernel = kernel
        self._upstreams = upstreams
        self._clock = clock
        self._metrics = metrics
        self.checks = Checks(metrics.note_ratio)
        self.effort = Effort()
        self._message_limit_bytes = message_limit_bytes
        self._on_cold_wait = on_cold_wait
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._upstream_of: dict[int, Upstream] = {}
        self._served: dict[str, Route] = {}
        # Why a model that was served is no longer.
        self._reasons: dict[str, PaldiaError] = {}
        self._mergeable = Mergeable()
        self._timer: asyncio.TimerHandle | None = None
        self._pump_is_due = False

    def take_routes(self, changed: Sequence[Route], gone: Sequence[str]) -> None:
        """Serve models as these routes say, and those gone no more."""
        now_s = self._clock.monotonic_s()
        for name in gone:
            self._drop(name, NotFoundError.of("model", name))
        for route in changed:
            if route.is_served:
                self._reasons.pop(route.model, None)
                self._served[route.model] = route
                self.checks.take_route(route)
                self._kernel.plan(route.model, route.plan, now_s)
            else:
                self._drop(route.model, explain.not_servable(route))
        self._upstreams.route(endpoints_of(self._served.values()))
        self._pump()

    def _drop(self, model: str, reason: PaldiaError) -> None:
        self._reasons[model] = reason
        self._served.pop(model, None)
        self._mergeable.drop(model)
        self.checks.drop(model)
        self._kernel.remove(model)

    async def infer(
        self, route: Route, asked: Normalised, deadline_s: float | None, node_id: str | None = None
    ) -> InferResponse:
        """Get one answer; on `node_id` if given and possible.

        Raises:
            PaldiaError: why there is none.
        """
        pending = self._submit(route, asked, deadline_s, node_id, makes_call=False)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._abandon(pending)
            raise

    async def stream(
        self, route: Route, asked: Normalised, deadline_s: float | None, node_id: str | None = None
    ) -> AsyncGenerator[StreamResponse, None]:
        """Get any number of answers, as a decoupled model gives them.

        Raises:
            PaldiaError: why there are none, or no more.
        """
        pending = self._submit(route, asked, deadline_s, node_id, makes_call=True)
        try:
            while True:
                batch: Dispatch = await pending.future
                pending.future = self._loop.create_future()
                triton = self._upstream_of[batch.batch_id]
                left_s = time_left_s([pending], self._clock)
                try:
                    async with aclosing(batches.stream(triton, batch, asked, left_s)) as responses:
                        async for response in responses:
                            yield response
                    self._kernel.complete(batch.batch_id, self._clock.monotonic_s())
                    self._ended(batch.batch_id)
                    return
                except BatchFailedError as failed:
                    self._fail(batch, [pending], failed.verdict)
                    self._ended(batch.batch_id)
        finally:
            self._abandon(pending)

    def _submit(
        self,
        route: Route,
        asked: Normalised,
        deadline_s: float | None,
        node_id: str | None,
        *,
        makes_call: bool,
    ) -> Pending:
        now_s = self._clock.monotonic_s()
        request_id = next(self._ids)
        if asked.timeout_s is not None:
            until_s = now_s + asked.timeout_s
            deadline_s = until_s if deadline_s is None else min(deadline_s, until_s)
        like_key = None
        if self._mergeable.allows(route) and asked.like_key is not None and not makes_call:
            # What was checked against different configs is not alike.
            like_key = (route.generation, asked.message.model_version, asked.like_key)
        self._kernel.arrive(
            Request(
                request_id,
                route.model,
                asked.rows,
                arrival_s=now_s,
                deadline_s=deadline_s,
                priority=asked.priority,
                like_key=like_key,
                size_bytes=asked.size_bytes,
                node_id=node_id,
            )
        )
        pending = Pending(
            request_id, route, asked, now_s, deadline_s, makes_call, self._loop.create_future()
        )
        self._pending[request_id] = pending
        if not route.plan.lanes:
            self._on_cold_wait()
        self._pump_soon()
        return pending

    def _abandon(self, pending: Pending) -> None:
        """Forget a request; harmless if it has ended."""
        if self._pending.pop(pending.request_id, None) is None:
            return
        batch_id = self._kernel.cancel(pending.request_id, self._clock.monotonic_s())
        if batch_id is None:
            self._pump_soon()
        elif batch_id in self._running:
            self._running[batch_id].cancel()
        else:
            self._ended(batch_id)

    # Decisions.

    def _pump_soon(self) -> None:
        """Let the kernel decide once all that has already come in is known to it."""
        if self._pump_is_due:
            return
        self._pump_is_due = True
        if self.effort.gather_s:
            self._loop.call_later(self.effort.gather_s, self._pump)
        else:
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_is_due = False
        for decision in self._kernel.poll(self._clock.monotonic_s()):
            if isinstance(decision, Dispatch):
                self._start(decision)
                continue
            # Its caller may have left since that was decided.
            pending = self._pending.pop(decision.request_id, None)
            if pending is not None and not pending.future.done():
                pending.future.set_exception(self._explain(decision, pending))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakeup_s = self._kernel.next_wakeup_s()
        if math.isfinite(wakeup_s):
            delay_s = max(0.0, wakeup_s - self._clock.monotonic_s())
            self._timer = self._loop.call_later(delay_s, self._pump)

    def _start(self, batch: Dispatch) -> None:
        now_s = self._clock.monotonic_s()
        members = [self._pending[request_id] for request_id in batch.request_ids]
        waits_s = [now_s - pending.arrival_s for pending in members]
        self._metrics.note_batch(batch.model, batch.node_id, batch.rows, waits_s)
        self._upstream_of[batch.batch_id] = self._upstreams.acquire(batch.lane_id)
        # A stream lasts for as long as its caller reads.
        self.checks.started(batch, now_s, counts=not members[0].makes_call)
        if members[0].makes_call:
            members[0].future.set_result(batch)
            return
        task = self._loop.create_task(self._run(batch, members))
        self._running[batch.batch_id] = task
        task.add_done_callback(lambda _: self._ended(batch.batch_id))

    def _explain(self, decision: Refuse | Expire | Fail, pending: Pending) -> PaldiaError:
        route, waited_s = pending.route, self._clock.monotonic_s() - pending.arrival_s
        if isinstance(decision, Refuse):
            return explain.refused(decision, route)
        if isinstance(decision, Expire):
            return explain.expired(route, waited_s)
        reason = self._reasons.get(route.model)
        return explain.failed(decision, route, waited_s, batch_error=pending.error, gone=reason)

    # Batches.

    async def _run(self, batch: Dispatch, members: list[Pending]) -> None:
        upstream = self._upstream_of[batch.batch_id]
        left_s = time_left_s(members, self._clock)
        route = members[0].route
        if len(members) > 1 and not self._mergeable.allows(route):
            # They queued before that was known.
            self._fail(batch, members, Verdict(Retry.ALONE, InternalError("can't be merged")))
            return
        try:
            answered = await batches.infer(
                upstream, batch, [it.asked for it in members], left_s, route.output_ranks
            )
        except BatchFailedError as failed:
            if failed.is_unmergeable:
                self._mergeable.no_more(route, str(failed))
            self._fail(batch, members, failed.verdict)
        except Exception as error:
            logger().exception("batch.broken", model=batch.model, node=batch.node_id)
            self._fail(batch, members, Verdict(Retry.NO, InternalError(repr(error))))
        else:
            now_s = self._clock.monotonic_s()
            self.checks.ended(batch.batch_id, now_s, answered=True)
            self._kernel.complete(batch.batch_id, now_s)
            if not answered.is_mergeable:
                self._mergeable.no_more(route, "an answer has no row for each row asked")
            for pending, answer in zip(members, answered.answers, strict=True):
                self._answer(pending, answer)

    def _answer(self, pending: Pending, answer: InferResponse) -> None:
        self._pending.pop(pending.request_id, None)
        if pending.future.done():
            return
        size_bytes = answer.ByteSize()
        if size_bytes > self._message_limit_bytes:
            error = explain.too_large("answer", size_bytes, self._message_limit_bytes)
            pending.future.set_exception(error)
        else:
            pending.future.set_result(answer)

    def _fail(self, batch: Dispatch, members: list[Pending], verdict: Verdict) -> None:
        for pending in members:
            pending.error = verdict.error
        why = str(verdict.error)
        logger().debug("batch.failed", model=batch.model, node=batch.node_id, error=why)
        self._kernel.fail(batch.batch_id, self._clock.monotonic_s(), verdict.retry)

    def _ended(self, batch_id: int) -> None:
        """Let go of what a batch held."""
        self._running.pop(batch_id, None)
        self._upstreams.release(self._upstream_of.pop(batch_id))
        now_s = self._clock.monotonic_s()
        # One that was given up has told nobody yet; to others this is old news.
        self.checks.ended(batch_id, now_s, answered=False)
        self._kernel.fail(batch_id, now_s, Retry.NO)
        self._pump_soon()
