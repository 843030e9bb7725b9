"""What a run is to do, and each of its processes' part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paldia.load.crew import cores
from paldia.load.sender import Metadata
from paldia.load.talk import Job
from paldia.load.warp import Seconds

FULL_SHARE = 0.7
"""Of a core: what a process may take without being late for what is due."""
CALLERS_A_PROCESS = 16


@dataclass(frozen=True, slots=True)
class Floor:
    """What the generator itself takes, against a server that does nothing."""

    cpu_s_per_request: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """What to ask.

    Attributes:
        payloads: encoded ModelInferRequests, taking turns.
        answer: an encoded answer, to measure the generator itself with.
        outputs: names of the model's outputs; empty if they aren't known.
    """

    payloads: tuple[bytes, ...]
    answer: bytes
    outputs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """When to ask.

    Attributes:
        mode: rate, trace or closed.
        duration_s: what is counted, after the warm-up.
        warmup_s: what is sent first and not counted.
        offsets_s: rising times from the start of the warm-up; None for a closed loop.
        callers: of a closed loop, else 0.
    """

    mode: str
    duration_s: float
    warmup_s: float = 0.0
    offsets_s: Seconds | None = None
    callers: int = 0

    @property
    def total_s(self) -> float:
        """Warm-up and duration."""
        return self.warmup_s + self.duration_s


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What to send, when and to whom.

    Attributes:
        address: host and port of the server.
        model: the model asked; it stands in the payloads, too.
        what, when: what to ask, and when.
        deadline_s: when a request is given up, from when it was meant to be sent.
        slo_s: latency that an answer must keep within, if there is an objective.
        connections: to the server, of all processes.
        in_flight_limit: most requests under way, of all processes.
        processes: to send from; None for as many as it takes.
        check_every: one of so many answers is looked into.
        metadata: goes with each call.
    """

    address: str
    model: str
    what: Questions
    when: Schedule
    deadline_s: float
    slo_s: float | None
    connections: int
    in_flight_limit: int
    processes: int | None = None
    check_every: int = 100
    metadata: Metadata = ()

    def processes_with(self, floor: Floor) -> int:
        """Say how many processes it takes, at most one a core unless they were asked for."""
        if self.processes is not None:
            return self.processes
        if self.when.offsets_s is None:
            wanted = math.ceil(self.when.callers / CALLERS_A_PROCESS)
        else:
            busiest_rps = int(np.bincount(self.when.offsets_s.astype(np.int64)).max())
            wanted = math.ceil(busiest_rps * floor.cpu_s_per_request / FULL_SHARE)
        return max(1, min(cores(), wanted))

    def connections_each(self, processes: int) -> int:
        """Say how many connections each of so many processes opens."""
        return math.ceil(self.connections / processes)

    def part(self, number: int, processes: int) -> Job:
        """Give one of several processes its part: requests and callers in turn."""
        what, when = self.what, self.when
        turn = number * len(what.payloads) // processes
        return Job(
            address=self.address,
            payloads=what.payloads[turn:] + what.payloads[:turn],
            deadline_s=self.deadline_s,
            connections=self.connections_each(processes),
            in_flight_limit=math.ceil(self.in_flight_limit / processes),
            offsets_s=None if when.offsets_s is None else when.offsets_s[number::processes],
            callers=len(range(number, when.callers, processes)),
            until_s=when.total_s,
            check_every=self.check_every,
            outputs=what.outputs,
            metadata=self.metadata,
        )
