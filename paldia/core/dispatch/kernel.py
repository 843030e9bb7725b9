"""The frontend's kernel: which requests form a batch, on which lane, now or later, or refuse.

Sans-IO: the caller reports what happened (`arrive`, `complete`, `fail`, `cancel`, `plan`),
asks for decisions (`poll`) and comes back when the next one is due (`next_wakeup_s`). Time
enters as an argument, in seconds of any one monotonic clock. Every request leaves through
exactly one of: the completion of its batch, `Refuse`, `Expire`, `Fail` or its own `cancel`.
A report about a request or batch that has already left changes nothing.

While no lane is free (`busy_until_s`), like requests may be handed in together, as a run
(`arrive_run`): that changes no decision, and a run costs about as much as a request.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence

from paldia.core.dispatch.admission import Admission
from paldia.core.dispatch.batches import Batch
from paldia.core.dispatch.choice import Start
from paldia.core.dispatch.lanes import SUSPENSION_S
from paldia.core.dispatch.model import ModelState
from paldia.core.dispatch.requests import Request, Stay
from paldia.core.dispatch.timers import Timers
from paldia.core.dispatch.types import (
    Counters,
    Decision,
    Expire,
    Fail,
    FailCause,
    Limits,
    ModelPlan,
    Retry,
)
from paldia.core.errors import InvalidArgumentError, NotFoundError


class DispatchKernel:
    """Queues, lanes and batches of all models of one frontend worker."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._admission = Admission(self.limits)
        self.counters: dict[str, Counters] = {}
        self._models: dict[str, ModelState] = {}
        self._stays: dict[int, Stay] = {}
        self._batches: dict[int, Batch] = {}
        self._decisions: list[Decision] = []
        # Models that something happened to; a dict, for its order is certain.
        self._touched: dict[str, None] = {}
        self._timers = Timers()
        self._rechecks: list[tuple[float, str]] = []
        self._sequence = 0
        self._last_batch_id = 0

    def plan(self, model_name: str, plan: ModelPlan, now_s: float) -> None:
        """Take a model on, or change how it is served. Batches under way go on."""
        model = self._models.get(model_name)
        if model is None:
            counters = self.counters.setdefault(model_name, Counters())
            model = self._models[model_name] = ModelState(
                model_name, plan, counters, self.limits.batch_bytes, self._admission.load
            )
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
        model = self._model(request.model)
        model.counters.offered += request.rows
        refusal = self._admission.refusal(model, request)
        if refusal is not None:
            model.counters.refused += request.rows
            self._decisions.append(refusal)
            return
        self._sequence += 1
        stay = Stay.of(request, self._sequence, model.plan.slo.latency_s, (request.arrival_s,))
        self._stays[request.request_id] = stay
        self._enqueue(model, stay, request.arrival_s)

    def arrive_run(
        self,
        model_name: str,
        first_id: int,
        arrivals_s: Sequence[float],
        like_key: Hashable,
        *,
        rows: int = 1,
        size_bytes: int = 0,
    ) -> None:
        """Let in requests that differ only in when they came, as `arrive` would one by one.

        Their ids count up from `first_id`. They have no deadline and no priority, and can't be
        cancelled. To come to the same decisions as one by one, nothing else may have been
        reported since the first came, and `busy_until_s` must not have passed before the last.

        Raises:
            NotFoundError: no such model is planned.
            InvalidArgumentError: the arrivals don't ascend.
        """
        model = self._model(model_name)
        if not (run := tuple(arrivals_s)):
            return
        if len(run) > 1 and list(run) != sorted(run):
            raise InvalidArgumentError("the arrivals of a run must be in ascending order")
        first = Request(first_id, model_name, rows, run[0], None, 0, like_key, size_bytes)
        together = self._admission.count_together(model, first, len(run))
        if together:
            stay = Stay.of(first, self._sequence + 1, model.plan.slo.latency_s, run[:together])
            self._sequence += together
            model.counters.offered += rows * together
            self._enqueue(model, stay, run[0])
        for at in range(together, len(run)):
            self.arrive(first._replace(request_id=first_id + at, arrival_s=run[at]))

    def busy_until_s(self, model_name: str, now_s: float) -> float:
        """Until when no arrival leads to a decision or sets a timer, unless something is reported.

        `now_s` if a lane is free, or if there is none at all; infinity if all are busy. Like
        requests that come before then may be handed in as one run, and need no `poll`.

        Raises:
            NotFoundError: no such model is planned.
        """
        return self._model(model_name).busy_until_s(now_s)

    def complete(self, batch_id: int, now_s: float) -> None:
        """Count a batch's requests as answered and free its lane."""
        batch = self._end_batch(batch_id, now_s, is_done=True)
        if batch is None:
            return
        batch.lane.suspended_until_s = -math.inf
        batch.count_answers(now_s)
        for first_id in batch.members:
            self._stays.pop(first_id, None)

    def fail(self, batch_id: int, now_s: float, retry: Retry) -> None:
        """Free a failed batch's lane; its requests go back to the queue, or fail."""
        batch = self._end_batch(batch_id, now_s, is_done=False)
        if batch is None:
            return
        model, node_id = batch.model, batch.lane.lane.node_id
        if retry is Retry.ELSEWHERE:
            batch.lane.suspended_until_s = now_s + SUSPENSION_S
        is_gone = self._models.get(model.name) is not model
        for stay in batch.members.values():
            attempts = stay.attempts + (retry is Retry.ELSEWHERE)
            if is_gone:
                self._give_up(stay, FailCause.REMOVED)
            elif (
                retry is Retry.NO
                or attempts >= self.limits.max_attempts
                or (retry is Retry.ALONE and stay.alone)
            ):
                self._give_up(stay, FailCause.BATCH)
            else:
                for again in stay.again(
                    node_id if retry is Retry.ELSEWHERE else None, retry is Retry.ALONE
                ):
                    if again.first_id in self._stays:
                        self._stays[again.first_id] = again
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
        counters = self.counters[stay.request.model]
        if stay.request.deadline_s is not None and now_s >= stay.request.deadline_s:
            counters.expired += stay.rows
        else:
            counters.cancelled += stay.rows
        if stay.batch_id is None:
            self._dequeue(self._models[stay.request.model], stay)
            return None
        batch = self._batches[stay.batch_id]
        del batch.members[request_id]
        batch.rows -= stay.rows
        counters.in_flight -= stay.rows
        return None if batch.members else stay.batch_id

    def poll(self, now_s: float) -> list[Decision]:
        """Decide everything that can be decided now."""
        while self._timers.next_s <= now_s:
            self._expire(self._timers.first(), now_s)
        rechecks = self._rechecks
        while rechecks and rechecks[0][0] <= now_s:
            _, name = heapq.heappop(rechecks)
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
        recheck_s = self._rechecks[0][0] if self._rechecks else math.inf
        return min(self._timers.next_s, recheck_s)

    # Into the queue and out of it.

    def _model(self, name: str) -> ModelState:
        model = self._models.get(name)
        if model is None:
            raise NotFoundError.of("model", name)
        return model

    def _enqueue(self, model: ModelState, stay: Stay, now_s: float) -> None:
        model.push(stay)
        if stay.request.deadline_s is not None or model.is_cold:
            self._set_timer(model, stay, now_s)
        if model.room:
            self._touched[model.name] = None

    def _dequeue(self, model: ModelState, stay: Stay) -> None:
        model.remove(stay)
        self._timers.forget(stay)
        self._touched[model.name] = None

    def _set_timer(self, model: ModelState, stay: Stay, now_s: float) -> None:
        until_s = math.inf if stay.request.deadline_s is None else stay.request.deadline_s
        if model.is_cold:
            until_s = min(until_s, now_s + self.limits.cold_wait_s)
        self._timers.wait_until(stay, until_s)

    def _expire(self, stay: Stay, now_s: float) -> None:
        model = self._models[stay.request.model]
        self._dequeue(model, stay)
        if stay.request.deadline_s is None or now_s < stay.request.deadline_s:
            self._give_up(stay, FailCause.COLD)
            return
        self._stays.pop(stay.first_id, None)
        model.counters.expired += stay.rows
        self._decisions += map(Expire, stay.request_ids)

    def _give_up(self, stay: Stay, cause: FailCause) -> None:
        self._stays.pop(stay.first_id, None)
        self.counters[stay.request.model].failed += stay.rows
        self._decisions += (Fail(request_id, cause) for request_id in stay.request_ids)

    # Onto the lanes and off them.

    def _dispatch(self, model: ModelState, now_s: float) -> None:
        while isinstance(choice := model.choose(now_s), Start):
            self._last_batch_id += 1
            batch_id = self._last_batch_id
            stays = model.start_batch(choice, batch_id, now_s)
            if self._timers.next_s < math.inf:
                for stay in stays:
                    self._timers.forget(stay)
            batch = self._batches[batch_id] = Batch(batch_id, model, choice.lane, stays)
            self._decisions.append(batch.decision(batch_id))
        if choice.at_s < model.recheck_s:
            model.recheck_s = choice.at_s
            heapq.heappush(self._rechecks, (choice.at_s, model.name))

    def _end_batch(self, batch_id: int, now_s: float, *, is_done: bool) -> Batch | None:
        batch = self._batches.pop(batch_id, None)
        if batch is None:
            return None
        model = batch.model
        model.end_batch(batch.lane, batch_id, now_s, is_done=is_done)
        model.counters.in_flight -= batch.rows
        if model.load.requests:
            self._touched[model.name] = None
        return batch
