"""What the dispatch kernel costs, alone: processor time by request and by batch.

    python bench/kernel.py [requests]

Poisson arrivals meet lanes whose batches take exactly as long as predicted. Each case is played
twice: once to note what is asked of the kernel, then to ask a fresh one the same again and take
the time. Requests come one by one, with a poll after each, or as runs (`arrive_run`).
"""

from __future__ import annotations

import heapq
import math
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.lanes import Lane, linear_slowdowns
from paldia.core.dispatch.requests import Request
from paldia.core.dispatch.types import Dispatch, ModelPlan
from paldia.core.types import Slo

MODEL = "m"
Call = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """A load on lanes of one kind.

    Attributes:
        nodes: with `count` places each.
        slowdown: of each of `count` batches on a node.
        load: rate of arrivals over the rate that full batches on all places keep up with.
        linger_s: how long a batch waits for more to join it.
    """

    nodes: int
    count: int
    batch_limit: int
    slowdown: float
    load: float
    linger_s: float = 0.0

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes: a batch takes 5 ms and 1 ms a row, alone."""
        points = ((1, 0.006), (self.batch_limit, 0.005 + 0.001 * self.batch_limit))
        slowdowns = linear_slowdowns(self.count, self.slowdown)
        return tuple(
            Lane(f"lane-{i}", f"node-{i}", self.count, self.batch_limit, points, slowdowns)
            for i in range(self.nodes)
        )

    @property
    def rate(self) -> float:
        """Requests a second."""
        full_s = self.lanes[0].latency_s(self.batch_limit) * self.slowdown
        return self.load * self.nodes * self.count * self.batch_limit / full_s


CASES = [
    *(Case(1, 1, limit, 1.0, load) for limit in (1, 8, 32) for load in (0.2, 0.8, 1.2)),
    *(Case(1, 4, 8, 2.0, load) for load in (0.2, 0.8, 1.2)),
    *(Case(1, 8, 16, 5.0, load) for load in (0.2, 0.8, 1.2)),
    *(Case(3, 4, 8, 2.0, load) for load in (0.2, 0.8, 1.2)),
    # Where most are refused, for the queue is full, and where batches gather first.
    *(Case(1, count, 8, count / 2 + 0.5, 4.0) for count in (1, 8)),
    Case(1, 4, 8, 2.0, 0.2, linger_s=0.02),
]


class Asked:
    """A kernel that notes what it is asked."""

    def __init__(self) -> None:
        self.kernel = DispatchKernel()
        self.calls: list[Call] = []

    def ask(self, name: str, *arguments: Any) -> Any:
        """Ask the kernel and note it."""
        self.calls.append((name, arguments))
        return getattr(self.kernel, name)(*arguments)


def play(case: Case, requests: int, *, runs: bool) -> Asked:
    """Let a load come and be served."""
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(1 / case.rate, requests)).tolist()
    arrivals.append(math.inf)
    asked, lanes = Asked(), {lane.lane_id: lane for lane in case.lanes}
    asked.ask("plan", MODEL, ModelPlan(case.lanes, Slo(0.2), linger_s=case.linger_s), 0.0)
    ends: list[tuple[float, int, str]] = []
    running = dict.fromkeys(lanes, 0)
    now_s, at = 0.0, 0
    while at < requests or ends:
        free_s = asked.ask("busy_until_s", MODEL, now_s) if runs else now_s
        event_s = min(ends[0][0] if ends else math.inf, asked.ask("next_wakeup_s"))
        if free_s <= arrivals[at] <= event_s:
            now_s = arrivals[at]
            if runs:
                asked.ask("arrive_run", MODEL, at, arrivals[at : at + 1], "k")
            else:
                asked.ask("arrive", Request(at, MODEL, 1, now_s, like_key="k"))
            at += 1
        else:
            now_s = event_s
            until = bisect_right(arrivals, now_s, at)
            if until > at:
                asked.ask("arrive_run", MODEL, at, arrivals[at:until], "k")
                at = until
            if ends and ends[0][0] == now_s:
                _, batch_id, lane_id = heapq.heappop(ends)
                running[lane_id] -= 1
                asked.ask("complete", batch_id, now_s)
        for decision in asked.ask("poll", now_s):
            if isinstance(decision, Dispatch):
                lane_id = decision.lane_id
                running[lane_id] += 1
                slowed = lanes[lane_id].slowdown_of(running[lane_id])
                end_s = now_s + lanes[lane_id].latency_s(decision.rows) * slowed
                heapq.heappush(ends, (end_s, decision.batch_id, lane_id))
    return asked


def replay_s(calls: list[Call]) -> float:
    """Give the processor seconds that a fresh kernel takes for the same."""
    kernel = DispatchKernel()
    bound: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (getattr(kernel, name), arguments) for name, arguments in calls
    ]
    began_s = time.process_time()
    for method, arguments in bound:
        method(*arguments)
    return time.process_time() - began_s


def main(requests: int) -> None:
    """Print a line for each case."""
    print("nodes places limit slowdown load linger   rows/batch refused |  one by one       runs")
    print(f"{'us/req us/batch  us/req us/batch':>92}")
    for case in CASES:
        figures = []
        for runs in (False, True):
            asked = play(case, requests, runs=runs)
            counters = asked.kernel.counters[MODEL]
            spent_us = min(replay_s(asked.calls) for _ in range(3)) * 1e6
            figures += [spent_us / requests, spent_us / counters.batches]
        size = (counters.offered - counters.refused) / counters.batches
        print(
            f"{case.nodes:5} {case.count:6} {case.batch_limit:5} {case.slowdown:8.1f} "
            f"{case.load:4.1f} {case.linger_s:6.2f}   {size:10.1f} {counters.refused:7} | "
            f"{figures[0]:6.2f} {figures[1]:8.2f}  {figures[2]:6.2f} {figures[3]:8.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
