"""The frontend's kernel: which requests form a batch, on which lane, now or later, or refuse.

Sans-IO: the caller reports what happened (`arrive`, `complete`, `fail`, `cancel`, `plan`),
asks for decisions (`poll`) and comes back when the next one is due (`next_wakeup_s`). Time
enters as an argument, in seconds of any one monotonic clock. Every request leaves through
exactly one of: the completion of its batch, `Refuse`, `Expire`, `Fail` or its own `cancel`.
A report about a request or batch that has already left changes nothing.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from paldia.core.dispatch_lanes import SUSPENSION_S, LaneState
from paldia.core.dispatch_model import ModelState, Start
from paldia.core.dispatch_queue import Key, LazyHeap, Request, Stay
from paldia.core.dispatch_types import (
    Counters,
    Decision,
    Dispatch,
    Expire,
    Fail,
    FailCause,
    Limits,
    ModelPlan,
    Refuse,
    RefuseCause,
    Retry,
)
from paldia.core.errors import NotFoundError
from paldia.core.types import OverloadPolicy


@dataclass(slots=True)
class _Batch:
    model: ModelState
    lane: LaneState
    members: dict[int, Stay]


def _waits_until(key: Key, stay: Stay) -> bool:
    return stay.queued and stay.until_s == key[0]


class DispatchKernel:
    """Queues, lanes and batches of all models of one frontend worker."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.counters: dict[str, Counters] = {}
        self._models: dict[str, ModelState] = {}
        self._stays: dict[int, Stay] = {}
        self._batches: dict[int, _Batch] = {}
        self._decisions: list[Decision] = []
        # Models that something happened to; a dict, for its order is certain.
        self._touched: dict[str, None] = {}
        self._timers: LazyHeap[Stay] = LazyHeap(_waits_until)
        self._rechecks: list[tuple[float, str]] = []
        self._queued = 0
        self._queued_bytes = 0
        self._sequence = 0
        self._last_batch_id = 0

    def plan(self, model_name: str, plan: ModelPlan, now_s: float) -> None:
        """Take a model on, or change how it is served. Batches under way go on."""
        model = self._models.get(model_name)
        if model is None:
            counters = self.counters.setdefault(model_name, Counters())
            model = self._models[model_name] = ModelState(model_name, plan, counters)
        was_cold = model.is_cold
        model.change(plan, now_s)
        if model.is_cold != was_cold:
            for stay in model.waiting():
                self._set_timer(model, stay, now_s)
        self._touched[model_name] = None

    def remove(self, model_name: str) -> None:
        """Forget a model: what waits for it fails, what runs may still complete."""
        model = self._models.pop(model_name, None)
        if model is None:
            return
        for stay in model.waiting():
            self._dequeue(model, stay)
            self._give_up(stay, FailCause.REMOVED)

    def arrive(self, request: Request) -> None:
        """Let a request in, or refuse it, as of its arrival; `poll` tells.

        Raises:
            NotFoundError: no such model is planned.
        """
        model = self._models.get(request.model)
        if model is None:
            raise NotFoundError.of("model", request.model)
        model.counters.offered += request.rows
        refusal = self._refusal(model, request)
        if refusal is not None:
            model.counters.refused += request.rows
            self._decisions.append(refusal)
            return
        self._sequence += 1
        due_s = request.arrival_s + model.plan.slo.latency_s
        if request.deadline_s is not None:
            due_s = min(due_s, request.deadline_s)
        stay = Stay(request, (request.rank, due_s, self._sequence))
        self._stays[request.request_id] = stay
        self._enqueue(model, stay, request.arrival_s)

    def complete(self, batch_id: int, now_s: float) -> None:
        """Count a batch's requests as answered and free its lane."""
        batch = self._end_batch(batch_id, now_s)
        if batch is None:
            return
        batch.lane.suspended_until_s = -math.inf
        counters, slo_s = batch.model.counters, batch.model.plan.slo.latency_s
        for request_id, stay in batch.members.items():
            del self._stays[request_id]
            if now_s - stay.request.arrival_s <= slo_s:
                counters.answered_in_slo += stay.request.rows
            else:
                counters.answered_late += stay.request.rows

    def fail(self, batch_id: int, now_s: float, retry: Retry) -> None:
        """Free a failed batch's lane; its requests go back to the queue, or fail."""
        batch = self._end_batch(batch_id, now_s)
        if batch is None:
            return
        model, node_id = batch.model, batch.lane.lane.node_id
        if retry is Retry.ELSEWHERE:
            batch.lane.suspended_until_s = now_s + SUSPENSION_S
        is_gone = self._models.get(model.name) is not model
        for stay in batch.members.values():
            again = stay.again(node_id if retry is Retry.ELSEWHERE else None, retry is Retry.ALONE)
            if is_gone:
                self._give_up(stay, FailCause.REMOVED)
            elif (
                retry is Retry.NO
                or again.attempts >= self.limits.max_attempts
                or (retry is Retry.ALONE and stay.alone)
            ):
                self._give_up(stay, FailCause.BATCH)
            else:
                self._stays[stay.request.request_id] = again
                self._enqueue(model, again, now_s)

    def cancel(self, request_id: int, now_s: float) -> int | None:
        """Forget a request whose caller has left.

        Returns:
            The batch it ran in if nobody waits for that any more: stop it, then report
            it with `fail`.
        """
        stay = self._stays.pop(request_id, None)
        if stay is None:
            return None
        request, counters = stay.request, self.counters[stay.request.model]
        if request.deadline_s is not None and now_s >= request.deadline_s:
            counters.expired += request.rows
        else:
            counters.cancelled += request.rows
        if stay.batch_id is None:
            self._dequeue(self._models[request.model], stay)
            return None
        batch = self._batches[stay.batch_id]
        del batch.members[request_id]
        counters.in_flight -= request.rows
        return None if batch.members else stay.batch_id

    def poll(self, now_s: float) -> list[Decision]:
        """Decide everything that can be decided now."""
        while (stay := self._timers.top()) is not None and stay.until_s <= now_s:
            self._expire(stay, now_s)
        while self._rechecks and self._rechecks[0][0] <= now_s:
            _, name = heapq.heappop(self._rechecks)
            if name in self._models:
                self._models[name].recheck_s = math.inf
                self._touched[name] = None
        for name in self._touched:
            if name in self._models:
                self._dispatch(self._models[name], now_s)
        self._touched.clear()
        decisions, self._decisions = self._decisions, []
        return decisions

    def next_wakeup_s(self) -> float:
        """When to poll next if nothing happens before; infinity for never."""
        stay = self._timers.top()
        return min(
            math.inf if stay is None else stay.until_s,
            self._rechecks[0][0] if self._rechecks else math.inf,
        )

    # Into the queue and out of it.

    def _refusal(self, model: ModelState, request: Request) -> Refuse | None:
        limits, plan, now_s = self.limits, model.plan, request.arrival_s
        is_full = (
            model.queued >= limits.requests_per_model
            or self._queued >= limits.requests_in_all
            or model.queued_bytes + request.size_bytes > limits.bytes_per_model
            or self._queued_bytes + request.size_bytes > limits.bytes_in_all
        )
        shed = plan.on_overload is OverloadPolicy.SHED and not plan.slo_unreachable
        if not is_full and not shed:
            return None
        done_s = model.best_completion_s(request.rank, request.rows, now_s)
        # Nothing can be foretold while no lane is at hand.
        wait_s = done_s - now_s if math.isfinite(done_s) else 0.0
        if is_full:
            return Refuse.until(request.request_id, RefuseCause.QUEUE_FULL, wait_s)
        if wait_s > plan.slo.latency_s:
            late_s = wait_s - plan.slo.latency_s
            return Refuse.until(request.request_id, RefuseCause.SLO, late_s)
        return None

    def _enqueue(self, model: ModelState, stay: Stay, now_s: float) -> None:
        model.push(stay)
        self._queued += 1
        self._queued_bytes += stay.request.size_bytes
        self._set_timer(model, stay, now_s)
        self._touched[model.name] = None

    def _dequeue(self, model: ModelState, stay: Stay) -> None:
        model.remove(stay)
        self._left(stay)
        self._touched[model.name] = None

    def _left(self, stay: Stay) -> None:
        self._queued -= 1
        self._queued_bytes -= stay.request.size_bytes
        if math.isfinite(stay.until_s):
            self._timers.note_dead()

    def _set_timer(self, model: ModelState, stay: Stay, now_s: float) -> None:
        until_s = math.inf if stay.request.deadline_s is None else stay.request.deadline_s
        if model.is_cold:
            until_s = min(until_s, now_s + self.limits.cold_wait_s)
        if until_s == stay.until_s:
            return
        if math.isfinite(stay.until_s):
            self._timers.note_dead()
        stay.until_s = until_s
        if math.isfinite(until_s):
            self._timers.push((until_s, *stay.order), stay)

    def _expire(self, stay: Stay, now_s: float) -> None:
        request = stay.request
        model = self._models[request.model]
        self._dequeue(model, stay)
        if request.deadline_s is None or now_s < request.deadline_s:
            self._give_up(stay, FailCause.COLD)
            return
        del self._stays[request.request_id]
        model.counters.expired += request.rows
        self._decisions.append(Expire(request.request_id))

    def _give_up(self, stay: Stay, cause: FailCause) -> None:
        request = stay.request
        del self._stays[request.request_id]
        self.counters[request.model].failed += request.rows
        self._decisions.append(Fail(request.request_id, cause))

    # Onto the lanes and off them.

    def _dispatch(self, model: ModelState, now_s: float) -> None:
        while isinstance(choice := model.choose(now_s), Start):
            batch = model.take_batch(choice, self.limits.batch_bytes)
            self._last_batch_id += 1
            batch_id = self._last_batch_id
            rows = sum(stay.request.rows for stay in batch)
            for stay in batch:
                stay.batch_id = batch_id
                self._left(stay)
            choice.lane.start(batch_id, rows, now_s)
            members = {stay.request.request_id: stay for stay in batch}
            self._batches[batch_id] = _Batch(model, choice.lane, members)
            model.counters.batches += 1
            model.counters.in_flight += rows
            lane = choice.lane.lane
            self._decisions.append(
                Dispatch(batch_id, model.name, lane.lane_id, lane.node_id, tuple(members), rows)
            )
        self._recheck_at(model, choice.at_s)

    def _recheck_at(self, model: ModelState, at_s: float) -> None:
        if at_s < model.recheck_s:
            model.recheck_s = at_s
            heapq.heappush(self._rechecks, (at_s, model.name))

    def _end_batch(self, batch_id: int, now_s: float) -> _Batch | None:
        batch = self._batches.pop(batch_id, None)
        if batch is None:
            return None
        model = batch.model
        model.end_batch(batch.lane, batch_id, now_s)
        model.counters.in_flight -= sum(stay.request.rows for stay in batch.members.values())
        self._touched[model.name] = None
        return batch
