"""Requests, batches and devices: what happens between two steps of the planner.

Drives the frontend's own kernel. A model's requests are handed to it one by one while a lane is
free, since each may start a batch; while all are busy they can change nothing, and go in as one
run at the model's next event. So a busy model costs little more than its batches do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush

from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.types import Counters, Dispatch, Limits, ModelPlan, Retry
from paldia.sim.cluster import Cluster, Machine, Process
from paldia.sim.stream import Stream
from paldia.sim.witness import Witness

_ALIKE = "alike"
"""All requests of a model may share batches."""

_Running = tuple[Stream, Process, float, float, Dispatch]
"""A batch: whose, where, since when, the seconds it takes alone, and which."""


class Serving:
    """Frontend and devices.

    Attributes:
        joules: energy that batches took beyond what idle machines take, as far as known.
        missed: whether a request has come for a model that is planned nowhere.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        cluster: Cluster,
        limits: Limits,
        witness: Witness | None = None,
    ) -> None:
        self.streams = {stream.name: stream for stream in streams}
        self.joules = 0.0
        self.missed = False
        self._kernel = DispatchKernel(limits)
        self._cluster = cluster
        self._witness = witness
        self._lanes: dict[str, Process] = {}
        # (time, index, whose): completions and arrivals. One whose time is no longer what its
        # source has down is out of date.
        self._due: list[tuple[float, int, Machine | Stream]] = []
        self._running: dict[int, _Running] = {}
        self._last_id = 0
        # When the kernel wants to be polled next; asked after each poll, since every report to it
        # is followed by one.
        self._wakeup_s = math.inf

    def counters(self, model: str) -> Counters:
        """Give the kernel's counters of a model."""
        return self._kernel.counters[model]

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, runs or is still to come."""
        return all(
            stream.feed.next_s == math.inf
            and not self.counters(stream.name).backlog
            and not self.counters(stream.name).in_flight
            for stream in self.streams.values()
        )

    def run(self, until_s: float) -> float:
        """Let happen what happens before a time; give the time that was reached.

        That is earlier where a request was missed, for the planner to see to it.
        """
        due = self._due
        while True:
            event_s = due[0][0] if due else math.inf
            wakeup_s = self._wakeup_s
            if wakeup_s < event_s:
                if wakeup_s >= until_s:
                    break
                self._decide(wakeup_s)
                continue
            if event_s >= until_s:
                break
            source = heappop(due)[2]
            if source.due_s != event_s:
                continue
            if isinstance(source, Machine):
                self._complete(source, event_s)
            else:
                self._arrive(source, event_s)
                if self.missed:
                    return event_s
        for stream in self.streams.values():
            self._let_in(stream, until_s)
        self._decide(until_s)
        return until_s

    # Requests.

    def _let_in(self, stream: Stream, now_s: float) -> None:
        """Tell the kernel of the requests that have come."""
        feed = stream.feed
        if feed.next_s > now_s:
            return
        arrivals_s = feed.until(now_s)
        first_id = self._last_id + 1
        self._last_id += len(arrivals_s)
        self._kernel.arrive_run(stream.name, first_id, arrivals_s, _ALIKE)
        if self._witness is not None:
            self._witness.let_in(stream.name, first_id, arrivals_s)

    def _arrive(self, stream: Stream, now_s: float) -> None:
        stream.due_s = math.inf
        # While no place is free it can do nothing, and goes in with those that follow it.
        if stream.feed.next_s <= now_s and (stream.free > 0 or stream.is_awaited):
            self._let_in(stream, now_s)
            if stream.is_awaited:
                stream.is_awaited = False
                self.missed = True
            self._decide(now_s)
        self._expect(stream)

    def _expect(self, stream: Stream) -> None:
        """Put the next arrival down as an event if it may start a batch, or wakes the planner."""
        if (stream.free > 0 or stream.is_awaited) and stream.due_s == math.inf:
            next_s = stream.feed.next_s
            if next_s < math.inf:
                stream.due_s = next_s
                heappush(self._due, (next_s, stream.index, stream))

    # Batches.

    def _decide(self, now_s: float) -> None:
        kernel = self._kernel
        broken = True
        while broken:
            broken = False
            for decision in kernel.poll(now_s):
                if not isinstance(decision, Dispatch):
                    if self._witness is not None:
                        self._witness.turned_away(decision, now_s)
                    continue
                process = self._lanes[decision.lane_id]
                if process.machine.is_down:
                    # Nobody answers there, and the frontend sees that at once.
                    kernel.fail(decision.batch_id, now_s, Retry.ELSEWHERE)
                    broken = True
                else:
                    self._start(decision, process, now_s)
        self._wakeup_s = kernel.next_wakeup_s()

    def _start(self, batch: Dispatch, process: Process, now_s: float) -> None:
        batch_id = batch.batch_id
        work_s, demand = process.work(batch.rows)
        machine, stream = process.machine, self.streams[batch.model]
        machine.device.start(process.tenant, batch_id, work_s, demand, now_s)
        process.running += 1
        stream.free -= 1
        self.joules += work_s * demand * process.watts
        self._running[batch_id] = (stream, process, now_s, work_s, batch)
        self._watch(machine)

    def _watch(self, machine: Machine) -> None:
        """Put a machine's next completion down as an event, unless an earlier one is."""
        next_s = machine.device.next_completion_s
        if next_s < machine.due_s:
            machine.due_s = next_s
            heappush(self._due, (next_s, machine.index, machine))

    def _complete(self, machine: Machine, now_s: float) -> None:
        # What starts meanwhile need not be put down: it is looked at when all is done.
        machine.due_s = -math.inf
        counters = self._kernel.counters
        for batch_id in machine.device.finish_due(now_s):
            stream, process, start_s, work_s, batch = self._running.pop(batch_id)
            arrivals_s = batch.arrivals_s
            have_come = stream.feed.next_s <= now_s
            if have_come:
                self._let_in(stream, now_s)
            self._kernel.complete(batch_id, now_s)
            self._leave(stream, process, now_s)
            cold_s = None
            if arrivals_s[0] < stream.warm_since_s:
                cold_s = stream.cold_s(arrivals_s, start_s)
            stream.meter.note_batch(arrivals_s, start_s, now_s, work_s, cold_s)
            if self._witness is not None:
                self._witness.answered(
                    batch.request_ids,
                    arrivals_s,
                    now_s,
                    node_id=machine.node_id,
                    start_s=start_s,
                    work_s=work_s,
                    cold_s=cold_s,
                )
            # If nobody came, and nobody waits here or for this moment, there is nothing to decide.
            if have_come or counters[stream.name].backlog or self._wakeup_s <= now_s:
                self._decide(now_s)
            if stream.due_s == math.inf:
                self._expect(stream)
        machine.due_s = math.inf
        self._watch(machine)

    def _leave(self, stream: Stream, process: Process, now_s: float) -> None:
        process.running -= 1
        if process.running < process.places:
            stream.free += 1
        elif process.running == 0:
            self._cluster.drained(process, now_s)

    # What the planner and fate change.

    def route(
        self, model: str, plan: ModelPlan, processes: Sequence[Process], now_s: float
    ) -> None:
        """Serve a model on these processes, whose lanes `plan` gives in the same order."""
        stream = self.streams[model]
        self._let_in(stream, now_s)
        for process in stream.lanes:
            process.places = 0
            del self._lanes[process.lane_id]
        stream.lanes = tuple(processes)
        stream.free = 0
        for process, lane in zip(processes, plan.lanes, strict=True):
            self._lanes[process.lane_id] = process
            process.places = lane.count
            stream.free += max(0, lane.count - process.running)
        stream.note_lanes(now_s)
        self._kernel.plan(model, plan, now_s)
        self._decide(now_s)
        self._expect(stream)

    def await_request(self, model: str, *, is_awaited: bool) -> None:
        """Say whether a model's next request is to wake the planner."""
        stream = self.streams[model]
        stream.is_awaited = is_awaited
        self._expect(stream)

    def fail(self, machine: Machine, now_s: float) -> None:
        """Break off all that runs on a machine, which is down; its requests go elsewhere."""
        for batch_id in machine.device.clear():
            stream, process, *_ = self._running.pop(batch_id)
            self._let_in(stream, now_s)
            self._kernel.fail(batch_id, now_s, Retry.ELSEWHERE)
            self._leave(stream, process, now_s)
            self._expect(stream)
        machine.due_s = math.inf
        self._decide(now_s)

    def set_speed(self, machine: Machine, factor: float, now_s: float) -> None:
        """Let a machine run at `factor` of its normal speed."""
        machine.device.set_speed(factor, now_s)
        self._watch(machine)
