"""The nouns that decisions are about. Seconds, bytes and dollars throughout."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from paldia.core.errors import InvalidArgumentError

SLO_LIMIT_S = 3600.0
COUNT_LIMIT = 1_000_000
NAME_LIMIT = 128
"""Longest name of a model, a node or a kind of hardware, in characters."""
KEEP_ALIVE_LIMIT_S = 365 * 86400.0


class OverloadPolicy(enum.Enum):
    """What becomes of a request whose SLO can no longer be met."""

    QUEUE = "queue"
    SHED = "shed"


@dataclass(frozen=True, slots=True)
class Slo:
    """`share` of all requests offered are answered within `latency_s` seconds."""

    latency_s: float
    share: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.latency_s <= SLO_LIMIT_S:
            raise InvalidArgumentError(
                f"the SLO's latency must lie above 0 s and up to {SLO_LIMIT_S:g} s, "
                f"not at {self.latency_s:g} s"
            )
        if not 0 < self.share < 1:
            raise InvalidArgumentError(
                f"the SLO's share must lie between 0 and 1 (0.99 is 99 %), not {self.share:g}"
            )


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its owner wants it served.

    `max_batch` of 0 leaves the limit to the artifact.
    """

    name: str
    artifact_digest: str
    slo: Slo
    generation: int = 1
    max_batch: int = 0
    min_replicas: int = 1
    keep_alive_s: float = 600.0
    on_overload: OverloadPolicy = OverloadPolicy.QUEUE

    def __post_init__(self) -> None:
        for field, value in (("max batch", self.max_batch), ("min replicas", self.min_replicas)):
            if not 0 <= value <= COUNT_LIMIT:
                raise InvalidArgumentError(
                    f"{field} must lie between 0 and {COUNT_LIMIT}, not at {value}"
                )
        if not 0 <= self.keep_alive_s <= KEEP_ALIVE_LIMIT_S:
            raise InvalidArgumentError(
                f"keep-alive must lie between 0 s and {KEEP_ALIVE_LIMIT_S:g} s (a year), "
                f"not at {self.keep_alive_s:g} s"
            )


@dataclass(frozen=True, slots=True)
class Hardware:
    """A kind of machine; nodes of one kind share profiles and price.

    Attributes:
        memory_bytes: of the device that models run on: the GPU's if there is one.
        cores: processor cores; 0 if unknown.
        gpus: how many GPUs it has.
        sm_shares: whether MPS can hold a process to a share of the GPU (Volta and later).
        activation_s: from asking for a parked node to an agent that can load models.
        idle_watts: power it draws idle; `rated_watts` fully busy; 0 if unknown.
    """

    name: str
    price_usd_per_hour: float
    memory_bytes: int
    cores: int = 0
    gpus: int = 0
    sm_shares: bool = False
    activation_s: float = 0.0
    idle_watts: float = 0.0
    rated_watts: float = 0.0


class NodeState(enum.Enum):
    """Life of a node: parked nodes hold nothing and cost nothing."""

    PARKED = "parked"
    ACTIVATING = "activating"
    ACTIVE = "active"
    DRAINING = "draining"
    LOST = "lost"
