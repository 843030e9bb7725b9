"""The nouns that decisions are about. Seconds, bytes and dollars throughout."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from paldia.core.errors import InvalidArgumentError


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
        if not (math.isfinite(self.latency_s) and self.latency_s > 0):
            raise InvalidArgumentError(
                f"the SLO's latency must be above 0 s, not {self.latency_s:g} s"
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
            if value < 0:
                raise InvalidArgumentError(f"{field} must not be negative, not {value}")
        if not (math.isfinite(self.keep_alive_s) and self.keep_alive_s >= 0):
            raise InvalidArgumentError(
                f"keep-alive must be 0 s or more, not {self.keep_alive_s:g} s"
            )


@dataclass(frozen=True, slots=True)
class Hardware:
    """A kind of machine; nodes of one kind share profiles and price."""

    name: str
    price_usd_per_hour: float
    memory_bytes: int


class NodeState(enum.Enum):
    """Life of a node: parked nodes hold nothing and cost nothing."""

    PARKED = "parked"
    ACTIVE = "active"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that can hold models."""

    node_id: str
    hardware: Hardware
    state: NodeState
