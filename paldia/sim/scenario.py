"""What is simulated: models, machines, arrivals, and what goes wrong when."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paldia.core.config import PolicyConfig
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model

Times = npt.NDArray[np.float64]


class Arrivals(Protocol):
    """A model's requests, as often as one likes, the same each time."""

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the end of the trace."""

    def chunks(self) -> Iterator[Times]:
        """Give arrival times in seconds from the start, ascending, some thousands at a time."""


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model under simulation.

    Attributes:
        profiles: by kind of hardware; kinds that are missing can't run it.
        history: what had come before, for the planner to have learned from; it ends where
            the arrivals begin. Without it the first minute's mean rate had come all along.
    """

    model: Model
    profiles: Mapping[str, Profile]
    arrivals: Arrivals
    history: Arrivals | None = None


class FaultKind(enum.Enum):
    """What may befall a node."""

    FAIL = "fail"
    """It is gone with all that runs on it, and comes back parked after `duration_s`."""
    SLOW = "slow"
    """Everything on it takes `factor` times as long for `duration_s`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mishap, from `at_s` on."""

    kind: FaultKind
    node_id: str
    at_s: float
    duration_s: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a run depends on but the policy.

    Attributes:
        nodes: hardware by node id; all are parked at the start.
        duration_s: arrivals beyond it are left out; what was let in is still answered.
        warmup_s: how long before the first arrival models are deployed, at no charge to the
            figures: a trace's first second finds them served.
        seed: of everything that is random.
    """

    models: tuple[SimModel, ...]
    nodes: Mapping[str, Hardware]
    duration_s: float
    faults: tuple[Fault, ...] = ()
    tick_s: float = 1.0
    warmup_s: float = 300.0
    seed: int = 0
    config: PolicyConfig = field(default_factory=PolicyConfig)


class Fate(enum.Enum):
    """What became of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"


class RequestSink(Protocol):
    """Is told what became of requests, a batch at a time, in the order in which it is known."""

    def __call__(
        self,
        model: str,
        fate: Fate,
        arrivals_s: Sequence[float] | Times,
        done_s: float,
        *,
        node_id: str = "",
        start_s: float = math.nan,
        work_s: float = math.nan,
        cold_s: Times | None = None,
    ) -> None:
        """Take requests that share one fate.

        Args:
            arrivals_s: when each of them came, in seconds from the trace's start.
            done_s: when they were answered, refused or given up.
            node_id: where they ran; empty where they didn't.
            start_s: when their batch started, NaN if it never did.
            work_s: seconds the batch would have taken alone.
            cold_s: for each of them the seconds it waited while there was no lane, if any did.
        """
