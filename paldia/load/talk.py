"""What the processes of a load generator say to each other, over a pipe each.

To a worker goes a Job, and once it is Ready a Start; Stop ends it early. Meanwhile Columns come
back, and a Finished at last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paldia.load.sender import Metadata


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Requests to send.

    Attributes:
        address: host and port of the server.
        payloads: encoded ModelInferRequests, taking turns.
        offsets_s: rising times to send at; None for a closed loop.
        callers: of a closed loop.
        until_s: when a closed loop ends.
        deadline_s: when a request is given up, from when it was meant to be sent.
        connections: to the server.
        in_flight_limit: most requests under way.
        check_every: one of so many answers is looked into.
        outputs: names that the model's outputs may have; empty if they aren't known.
        metadata: goes with each call.
    """

    address: str
    payloads: tuple[bytes, ...]
    deadline_s: float
    connections: int
    in_flight_limit: int
    offsets_s: NDArray[np.float64] | None = None
    callers: int = 0
    until_s: float = 0.0
    check_every: int = 1
    outputs: frozenset[str] = frozenset()
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is connected."""


@dataclass(frozen=True, slots=True)
class Start:
    """Time counts from this moment of the machine's monotonic clock, which all processes share."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Send nothing more."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All is known.

    Attributes:
        cpu_s: processor time from the start until now.
        busy_s: seconds from the start until now.
        details: what was said of the first failure of each code.
    """

    cpu_s: float
    busy_s: float
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker couldn't do its job, and why."""

    reason: str
