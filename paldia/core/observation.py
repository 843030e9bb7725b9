"""What a decision sees, and what it says."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from paldia.core.forecast.base import Forecaster
from paldia.core.forecast.choice import DEFAULT
from paldia.core.forecast.recurrence import Recurrence
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, NodeState


class DeploymentState(enum.Enum):
    """State of a model on a node, as its agent reports it."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """A model on a node, as reported."""

    state: DeploymentState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, as reported.

    Attributes:
        deployments: by (model, artifact digest).
        problem: why it can't serve at all; empty if it can.
    """

    node_id: str
    hardware: Hardware
    state: NodeState
    deployments: Mapping[tuple[str, str], DeploymentView] = field(default_factory=dict)
    problem: str = ""

    @property
    def usable(self) -> bool:
        """Whether new models may go there."""
        return not self.problem and self.state in (
            NodeState.PARKED,
            NodeState.ACTIVATING,
            NodeState.ACTIVE,
        )


@dataclass(frozen=True, slots=True)
class DemandView:
    """What frontends saw since the step before.

    Attributes:
        arrivals: requests offered over `interval_s` seconds; nothing new if that is 0.
        backlog: requests that wait in frontends now.
        in_flight: requests that are being worked on now.
        future_requests_per_second: the highest rate of the time that a change of hardware
            takes, where somebody knows it beforehand: the simulator, for the oracles.
        mean_requests_per_second: the mean of the whole trace, likewise.
    """

    arrivals: float = 0.0
    interval_s: float = 0.0
    backlog: int = 0
    in_flight: int = 0
    future_requests_per_second: float | None = None
    mean_requests_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model, what is asked of it and what is known of it.

    Attributes:
        profiles: by hardware; None where it was tried and could not be measured.
    """

    model: Model
    demand: DemandView
    profiles: Mapping[str, Profile | None]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A model's instances on one node: the smallest piece of a plan.

    Attributes:
        lanes: batches that may run at once.
        batch: requests in the largest of them.
        sm_percent: share of the GPU's SMs that its process is held to from its start.
    """

    node_id: str
    hardware: str
    artifact_digest: str
    lanes: int
    batch: int
    sm_percent: int = 100

    @property
    def place(self) -> tuple[str, str]:
        """What makes it another process: its node and its artifact."""
        return (self.node_id, self.artifact_digest)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Where a model should be.

    Attributes:
        target: where it should serve.
        retiring: where it serves until all of `target` is ready.
        since_s: when `target` last changed places, in seconds of the observation's clock.
    """

    model: str
    generation: int
    target: tuple[Assignment, ...] = ()
    retiring: tuple[Assignment, ...] = ()
    slo_unreachable: bool = False
    since_s: float = 0.0

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """Everything that should run."""
        return self.target + self.retiring


def state_of(node: NodeView | None, model: str, assignment: Assignment) -> DeploymentState | None:
    """What a node last said of an assignment; None if nothing."""
    view = node.deployments.get((model, assignment.artifact_digest)) if node else None
    return view.state if view else None


Plan = Mapping[str, ModelPlan]
"""Plans by model name."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One consistent picture of the cluster, the input of a step."""

    now_s: float
    models: tuple[ModelView, ...]
    nodes: tuple[NodeView, ...]
    plan: Plan


class Verdict(enum.Enum):
    """The constraint that binds a candidate, or that none does."""

    FEASIBLE = "feasible"
    LATENCY = "latency"
    THROUGHPUT = "throughput"
    UTILISATION = "utilisation"
    MEMORY = "memory"
    NEIGHBOUR = "neighbour"
    NOT_ENOUGH_NODES = "not enough nodes"
    UNPROFILED = "unprofiled"
    CANNOT_RUN = "cannot run"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a model: so many nodes of one kind of hardware.

    Attributes:
        latency_s: predicted time of the last of the requests pending at a bad moment.
        throughput: requests per second of all nodes together.
        added_usd_per_hour: price of those nodes that nothing else keeps running.
        utilisation: planned share of the busiest of its nodes, `share` the model's own part
            of what may be planned for there, in work or in memory.
        keeps_slo: the SLO is kept, whatever else the verdict has against it.
        detail: the verdict with its numbers.
    """

    hardware: str
    verdict: Verdict
    detail: str
    assignments: tuple[Assignment, ...] = ()
    latency_s: float = float("inf")
    throughput: float = 0.0
    price_usd_per_hour: float = 0.0
    added_usd_per_hour: float = 0.0
    utilisation: float = 0.0
    share: float = 0.0
    keeps_slo: bool = False

    @property
    def feasible(self) -> bool:
        """Whether it is predicted to keep the SLO."""
        return self.verdict is Verdict.FEASIBLE

    @property
    def servable(self) -> bool:
        """Whether the model would run there at all."""
        return bool(self.assignments)


class Action(enum.Enum):
    """What a decision does to a model's plan."""

    PLACE = "place"
    MOVE = "move"
    SCALE = "scale"
    UPDATE = "update"
    TUNE = "tune"
    UNLOAD = "unload"
    UNPLACED = "unplaced"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about one model, with the numbers that decided it."""

    decided_s: float
    model: str
    generation: int
    action: Action
    reason: str
    rate: Forecaster
    backlog: int
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    slo_unreachable: bool
    inputs_digest: str
    before: tuple[Assignment, ...]
    after: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What the planner remembers of a model from step to step.

    Attributes:
        expected_rate: requests per second that hardware has to be held for: how many may come
            before other hardware could be there.
        backlog: requests that wait and don't go away, whatever the rate says; those that wait
            for a moment count for nothing. Since `backlog_since_s` there were some.
        saving_since_s: since when a cheaper place has won without a break; None if none does.
        last_used_s: when a request last arrived, or the model was deployed.
        avoid: (node, until when) where it failed to start.
        unready_since_s: since when not all of its target is ready; None while it is.
        judged_rate: requests per second that it was last judged for, at `judged_s`.
    """

    rate: Forecaster = field(default_factory=DEFAULT)
    recurrence: Recurrence = field(default_factory=Recurrence)
    expected_rate: float = 0.0
    backlog: int = 0
    backlog_since_s: float | None = None
    saving_since_s: float | None = None
    last_used_s: float = 0.0
    avoid: tuple[tuple[str, float], ...] = ()
    unready_since_s: float | None = None
    judged_rate: float = 0.0
    judged_s: float = -math.inf


Memory = Mapping[str, ModelMemory]
"""Memories by model name."""
