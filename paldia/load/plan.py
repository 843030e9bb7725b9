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
class Plan:
    """What to send, when and to whom.

    Attributes:
        address: host and port of the server.
        model: the model asked; it stands in the payloads, too.
        payloads: encoded ModelInferRequests, taking turns.
        answer: an encoded answer, to measure the generator itself with.
        outputs: names of the model's outputs; empty if they aren't known.
        offsets_s: when to send; None for a closed loop.
        callers: of a closed loop.
        warmup_s: what is sent first and not counted.
        duration_s: what is counted.
        deadline_s: when a request is given up, from when it was meant to be sent.
        slo_s: latency that an answer must keep within, if there is an objective.
        processes: to send from; None for as many as it takes.
        connections: to the server, of all processes.
        in_flight_limit: most requests under way, of all processes.
        check_every: one of so many answers is looked into.
        metadata: goes with each call.
    """

    address: str
    model: str
    payloads: tuple[bytes, ...]
    answer: bytes
    offsets_s: Seconds | None
    callers: int
    warmup_s: float
    duration_s: float
    deadline_s: float
    slo_s: float | None
    connections: int
    in_flight_limit: int
    processes: int | None = None
    check_every: int = 100
    outputs: frozenset[str] = frozenset()
    metadata: Metadata = ()

    @property
    def total_s(self) -> float:
        """Warm-up and duration."""
        return self.warmup_s + self.duration_s

    def processes_with(self, floor: Floor) -> int:
        """Say how many processes it takes, at most one a core unless they were asked for."""
        if self.processes is not None:
            return self.processes
        if self.offsets_s is None:
            wanted = math.ceil(self.callers / CALLERS_A_PROCESS)
        else:
            busiest_rps = int(np.bincount(self.offsets_s.astype(np.int64)).max())
            wanted = math.ceil(busiest_rps * floor.cpu_s_per_request / FULL_SHARE)
        return max(1, min(cores(), wanted))

    def connections_each(self, processes: int) -> int:
        """Say how many connections each of so many processes opens."""
        return math.ceil(self.connections / processes)

    def part(self, number: int, processes: int) -> Job:
        """Give one of several processes its part: requests and callers in turn."""
        offsets_s = None if self.offsets_s is None else self.offsets_s[number::processes]
        turn = number * len(self.payloads) // processes
        return Job(
            address=self.address,
            payloads=self.payloads[turn:] + self.payloads[:turn],
            deadline_s=self.deadline_s,
            connections=self.connections_each(processes),
            in_flight_limit=math.ceil(self.in_flight_limit / processes),
            offsets_s=offsets_s,
            callers=len(range(number, self.callers, processes)),
            until_s=self.total_s,
            check_every=self.check_every,
            outputs=self.outputs,
            metadata=self.metadata,
        )
