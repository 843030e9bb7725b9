"""Sends load from processes of its own, as many as it takes, and counts what comes of it.

First it measures itself: one caller against a server that does nothing tells what part of any
latency is the generator's own, and what a request costs it; so many processes follow from that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait

import numpy as np

from paldia.core.errors import InternalError
from paldia.load.crew import ANSWER_S, Process, cores, now_s, process
from paldia.load.outcomes import Columns
from paldia.load.plan import Floor, Plan
from paldia.load.report import Report, report
from paldia.load.talk import Finished, Job, Start, Stop
from paldia.load.tally import Tally, Window

BUSY_SHARE = 0.9
"""Of a core: a process of a closed loop that takes more holds the others up."""
_WORKER, _NOOP = "paldia.load.worker", "paldia.load.noop"
_FLOOR_S = 1.0
_FLOOR_WARMUP_S = 0.25
_START_S = 0.1
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """The last second; `at_s` and `total_s` count from the start of the warm-up."""

    at_s: float
    total_s: float
    is_warmup: bool
    offered: int
    window: Window


@dataclass(frozen=True, slots=True)
class Result:
    """How it went.

    Attributes:
        report: the counts.
        floor: what the generator takes by itself.
        processes, connections: that were used.
        cpu_s_per_request: processor time of the generator in this run.
        details: what was said of the first failure of each code.
        advice: what to do so that the figures tell of the server; nothing if they do.
    """

    report: Report
    floor: Floor
    processes: int
    connections: int
    cpu_s_per_request: float
    details: dict[str, str]
    advice: tuple[str, ...]


class LoadRun:
    """One run. What was counted can be had even if it ended early."""

    def __init__(self, plan: Plan, sink: Callable[[Columns], None] = lambda columns: None) -> None:
        """Prepare; `sink` is told all outcomes, their times from the start of the warm-up."""
        self.tally = Tally(plan.slo_s, plan.when.warmup_s)
        self._plan = plan
        self._sink = sink
        self._processes = 0
        self._floor = Floor(0.0, 0.0, 0.0)
        self._finished: list[Finished] = []
        self._details: dict[str, str] = {}
        self._duration_s = plan.when.duration_s
        self._own_cpu_s = 0.0

    def go(self, tell: Callable[[Progress], None], is_stopped: Callable[[], bool]) -> None:
        """Send all and wait for the last to be known, or until it is to stop.

        Args:
            tell: told how it goes, each second.
            is_stopped: asked several times a second.

        Raises:
            UnavailableError: the server can't be reached.
            InternalError: a process of the generator ended or hangs.
        """
        plan = self._plan
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(process(_WORKER))]
            self._floor = _measure_floor(workers[0], plan)
            self._processes = plan.processes_with(self._floor)
            for _ in range(1, self._processes):
                workers.append(stack.enter_context(process(_WORKER)))
            for number, worker in enumerate(workers):
                worker.pipe.send(plan.part(number, self._processes))
            for worker in workers:
                worker.hear()
            if is_stopped():
                return
            start_s = now_s() + _START_S
            for worker in workers:
                worker.pipe.send(Start(start_s))
            cpu_s = time.process_time()
            try:
                self._collect(workers, start_s, tell, is_stopped)
            finally:
                self._own_cpu_s = time.process_time() - cpu_s

    def _collect(
        self,
        workers: Sequence[Process],
        start_s: float,
        tell: Callable[[Progress], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        pending = {worker.pipe: worker for worker in workers}
        give_up_s = start_s + self._plan.when.total_s + self._plan.deadline_s + ANSWER_S
        told_s, stopping = 0.0, False
        while pending:
            if is_stopped() and not stopping:
                stopping = True
                give_up_s = now_s() + ANSWER_S
                sent_s = min(now_s() - start_s, self._plan.when.total_s)
                self._duration_s = max(_LOOK_S, sent_s - self._plan.when.warmup_s)
                for pipe in pending:
                    pipe.send(Stop())
            if now_s() > give_up_s:
                raise InternalError("a process of the load generator hangs; is the machine busy?")
            heard = wait(list(pending), timeout=_LOOK_S)
            for worker in [it for pipe, it in pending.items() if pipe in heard]:
                if self._take(worker.hear()):
                    del pending[worker.pipe]
            while now_s() - start_s >= told_s + 1 and pending:
                told_s += 1
                tell(self._progress(told_s))

    def _take(self, said: Columns | Finished) -> bool:
        """Count what a worker says; whether that was its last word."""
        if isinstance(said, Columns):
            self.tally.add(said)
            self._sink(said)
            return False
        self._finished.append(said)
        self._details = {**said.details, **self._details}
        return True

    def _progress(self, at_s: float) -> Progress:
        plan, window = self._plan, self.tally.window()
        offered = window.answered + window.refused + window.failed
        if plan.when.offsets_s is not None:
            first, last = np.searchsorted(plan.when.offsets_s, (at_s - 1, at_s)).tolist()
            offered = last - first
        return Progress(at_s, plan.when.total_s, at_s <= plan.when.warmup_s, offered, window)

    def result(self) -> Result:
        """Sum up what was counted.

        Raises:
            InvalidArgumentError: nothing was offered after the warm-up.
        """
        plan = self._plan
        made = report(self.tally, plan.slo_s, self._duration_s, is_saturated=self._is_saturated())
        sent = sum(second.offered for second in self.tally.seconds.values())
        cpu_s = self._own_cpu_s + sum(it.cpu_s for it in self._finished)
        return Result(
            report=made,
            floor=self._floor,
            processes=self._processes,
            connections=self._processes * plan.connections_each(self._processes),
            cpu_s_per_request=cpu_s / sent,
            details=self._details,
            advice=_advice(made, self._processes),
        )

    def _is_saturated(self) -> bool:
        """Callers of a closed loop aren't late, so it is the processor that tells."""
        return self._plan.when.offsets_s is None and any(
            it.cpu_s > BUSY_SHARE * it.busy_s for it in self._finished
        )


def _advice(made: Report, processes: int) -> tuple[str, ...]:
    lines = []
    if not made.kept_up:
        cure = (
            f"try --processes {processes + 1}, or a lower rate"
            if processes < cores()
            else "send from another machine than the server's, or less"
        )
        lines.append(f"the generator did not keep up, so the figures tell of it, too: {cure}")
    if made.unsent:
        lines.append(
            f"{made.unsent:,} requests were not sent, for as many as may be were under way: the "
            "server is overloaded, or --in-flight too low for its latency"
        )
    return tuple(lines)


def _measure_floor(worker: Process, plan: Plan) -> Floor:
    tally = Tally(None, _FLOOR_WARMUP_S)
    with process(_NOOP) as server:
        server.pipe.send_bytes(plan.what.answer)
        worker.pipe.send(
            Job(
                address=server.hear(),
                payloads=plan.what.payloads,
                deadline_s=ANSWER_S,
                connections=1,
                in_flight_limit=1,
                callers=1,
                until_s=_FLOOR_S,
                check_every=plan.check_every,
            )
        )
        worker.hear()
        worker.pipe.send(Start(now_s()))
        while not isinstance(said := worker.hear(), Finished):
            tally.add(said)
    sent = sum(second.offered for second in tally.seconds.values())
    latencies = tally.latencies
    return Floor(
        said.cpu_s / max(1, sent),
        latencies.percentile_s(50) or 0.0,
        latencies.percentile_s(99) or 0.0,
    )
