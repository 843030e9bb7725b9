"""What the controller answers, as plain immutable values.

Nothing here knows protobuf, so programs and `--json` output depend on these names alone.
Times are in seconds, sizes in bytes, prices in dollars, moments in UTC; an unknown figure
is None.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from paldia.client.gpus import Gpu
from paldia.core.types import NodeState, OverloadPolicy, Slo


class ModelPhase(enum.Enum):
    """Where a model stands."""

    UNKNOWN = "unknown"
    PROFILING = "profiling"
    STARTING = "starting"
    READY = "ready"
    COLD = "cold"
    FAILED = "failed"
    UNPLACED = "unplaced"


class PlacementState(enum.Enum):
    """Whether a model on a node takes requests."""

    UNKNOWN = "unknown"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Provenance(enum.Enum):
    """Where a figure comes from."""

    UNKNOWN = "unknown"
    MEASURED = "measured"
    IMPORTED = "imported"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class Revision:
    """One accepted deploy or update of a model."""

    generation: int
    artifact_digest: str
    slo: Slo
    max_batch: int
    min_replicas: int
    keep_alive_s: float
    on_overload: OverloadPolicy
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a revision was given up."""

    generation: int
    reason: str
    failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Placement:
    """One model on one node; `sm_percent` is the share of a GPU's SMs it is held to."""

    node_id: str
    hardware: str
    state: PlacementState
    lanes: int
    batch_size: int
    endpoint: str
    reason: str
    artifact_digest: str
    sm_percent: int = 100


@dataclass(frozen=True, slots=True)
class Model:
    """A deployed model; `resource_version` makes an update compare-and-set."""

    name: str
    phase: ModelPhase
    reason: str
    slo_unreachable: bool
    requests_per_second: float
    serving: Revision | None
    candidate: Revision | None
    last_failure: Failure | None
    placements: tuple[Placement, ...]
    resource_version: int


@dataclass(frozen=True, slots=True)
class ModelChange:
    """News of a watch: everything there is in a snapshot, what changed otherwise."""

    snapshot: bool
    models: tuple[Model, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the fleet; `cpu_utilisation` is the share of its cores in use.

    `energy_j` has been drawn since the node was first active, as far as its power is known;
    `estimated_energy_j` is the part of it that nothing measured. Powers of 0 are unknown.
    """

    node_id: str
    hardware: str
    state: NodeState
    price_usd_per_hour: float
    cost_usd: float
    cores: int
    memory_bytes: int
    cpu_utilisation: float
    memory_used_bytes: int
    gpus: tuple[Gpu, ...]
    models: tuple[str, ...]
    problem: str
    last_report_at: datetime | None
    sm_shares: bool = False
    activation_s: float = 0.0
    idle_watts: float = 0.0
    rated_watts: float = 0.0
    energy_j: float = 0.0
    estimated_energy_j: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frontend:
    """A process that takes inference calls, at `address`."""

    frontend_id: str
    address: str
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The cluster in short; `moves` are those of the `decisions` that moved a model.

    `cost_usd_by_model` and `idle_cost_usd` add up to `cost_usd`: a model pays the share of
    each node that it is predicted to keep busy. Energy is that of all nodes, as in `Node`.
    """

    controller_id: str
    version: str
    store: str
    started_at: datetime | None
    cost_usd: float
    cost_usd_per_hour: float
    decisions: int
    moves: int
    frontends: tuple[Frontend, ...]
    nodes: tuple[Node, ...]
    models: tuple[Model, ...]
    cost_usd_by_model: Mapping[str, float] = field(default_factory=dict)
    idle_cost_usd: float = 0.0
    energy_j: float = 0.0
    estimated_energy_j: float = 0.0
    stale_profiles: tuple[StaleProfile, ...] = ()


@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """Time that one batch takes alone."""

    batch_size: int
    latency_s: float
    samples: int


@dataclass(frozen=True, slots=True)
class BatchShare:
    """A share, 0 to 1, that holds for batches of one size."""

    batch_size: int
    share: float


@dataclass(frozen=True, slots=True)
class ShareRange:
    """Least and greatest share that hold for batches of one size."""

    batch_size: int
    least: float
    greatest: float


@dataclass(frozen=True, slots=True)
class ProfileCheck:
    """A profile against batches that were served.

    `ratio` is the mean of observed over predicted time, by the profile as it was measured;
    `stale` says that it has to be measured anew.
    """

    ratio: float
    batches: int
    stale: bool


@dataclass(frozen=True, slots=True)
class StaleProfile:
    """A model whose batches take another time than was measured on a kind of hardware."""

    model: str
    hardware: str
    check: ProfileCheck


@dataclass(frozen=True, slots=True)
class Measuring:
    """How far a measurement is: `fraction` is the share of it that is done, 0 to 1."""

    hardware: str
    node_id: str
    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of an artifact on a kind of hardware, or why it isn't (`failure`).

    `demand` is the share of the device's scarcest resource that one batch takes, `sm_share`
    the least share of a GPU's SMs that keeps it at full speed, `interference` the slowdown of
    each of 1, 2, ... of its batches that run together; empty where nothing was measured.
    `watts` is the power that the device draws while it is kept busy; 0 is unknown. `full` says
    that sharing was measured; then `fit_error` is what the fitted figures are off, as a share,
    and `demand_between` holds the demands that explain the slowdowns almost as well.
    """

    hardware: str
    artifact_digest: str
    node_id: str
    points: tuple[LatencyPoint, ...]
    load_s: float
    memory_bytes: int
    colocation_penalty: float
    provenance: Provenance
    measured_at: datetime | None
    failure: str
    demand: tuple[BatchShare, ...] = ()
    sm_share: tuple[BatchShare, ...] = ()
    interference: tuple[float, ...] = ()
    watts: float = 0.0
    full: bool = False
    fit_error: float | None = None
    demand_between: tuple[ShareRange, ...] = ()
    check: ProfileCheck | None = None


@dataclass(frozen=True, slots=True)
class DeployProgress:
    """How far a deploy has come.

    `stage` is `fetching`, `packing`, `uploading`, `profiling`, `starting`, `unplaced`, `ready` or
    `cold`; `fraction` is the share fetched or uploaded, None in the other stages; `model` is known
    from `profiling` on.
    """

    stage: str
    detail: str
    fraction: float | None = None
    model: Model | None = None
