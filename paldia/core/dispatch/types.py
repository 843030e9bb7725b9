"""What dispatch is told and what it decides."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from paldia.core.dispatch.lanes import Lane
from paldia.core.types import OverloadPolicy, Slo

_RETRY_AFTER_LEAST_S = 0.1
_RETRY_AFTER_MOST_S = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait at most.

    Attributes:
        batch_bytes: most bytes to merge into one batch.
        cold_wait_s: how long a request waits for a model without lanes.
        max_attempts: batches a request may be in, if they fail for their node's sake.
    """

    requests_per_model: int = 4096
    bytes_per_model: int = 512 << 20
    requests_in_all: int = 16384
    bytes_in_all: int = 1 << 30
    batch_bytes: int = 32 << 20
    cold_wait_s: float = 30.0
    max_attempts: int = 2


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How a model is served.

    Attributes:
        lanes: none while it is cold.
        late_yields: whether what can't be answered in time any more lets others pass, so that
            those are in time. Otherwise one overload makes everybody late.
        linger_s: how long a batch that isn't full waits at most for more to join it, counted
            from when the first of its requests came. It starts earlier if it would be late
            otherwise, or if somebody waits behind it who can't join it.
        learns: whether predictions reckon with how long batches took of late.
    """

    lanes: tuple[Lane, ...]
    slo: Slo
    on_overload: OverloadPolicy = OverloadPolicy.QUEUE
    slo_unreachable: bool = False
    late_yields: bool = True
    linger_s: float = 0.0
    learns: bool = True


class RefuseCause(enum.Enum):
    """Why a request isn't let in."""

    QUEUE_FULL = "queue full"
    SLO = "the SLO can't be met"


class FailCause(enum.Enum):
    """Why a request that was let in can't be answered."""

    COLD = "no lane in time"
    REMOVED = "the model is gone"
    BATCH = "its batch failed"


class Dispatch(NamedTuple):
    """Send these requests, in this order, as one batch.

    Attributes:
        request_ids: a range where they are a run, or a part of one.
        arrivals_s: when each came.
    """

    # One is made for each batch: a named tuple takes a quarter of a frozen dataclass's time.
    batch_id: int
    model: str
    lane_id: str
    node_id: str
    request_ids: Sequence[int]
    rows: int
    arrivals_s: tuple[float, ...] = ()


class Refuse(NamedTuple):
    """Turn a request away that has just arrived; it is worth trying again later."""

    request_id: int
    cause: RefuseCause
    retry_after_s: float

    @classmethod
    def until(cls, request_id: int, cause: RefuseCause, wait_s: float) -> Refuse:
        """Refuse with the time to wait kept between sensible bounds."""
        bounded_s = min(max(wait_s, _RETRY_AFTER_LEAST_S), _RETRY_AFTER_MOST_S)
        return cls(request_id, cause, bounded_s)


@dataclass(frozen=True, slots=True)
class Expire:
    """The caller's deadline passed while the request waited."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Fail:
    """Give up on a request."""

    request_id: int
    cause: FailCause


Decision: TypeAlias = Dispatch | Refuse | Expire | Fail


class Retry(enum.Enum):
    """What becomes of the requests of a failed batch."""

    NO = "no"
    ELSEWHERE = "elsewhere"
    """The node is to blame: they go back, to another node if there is one."""
    ALONE = "alone"
    """One of them may be to blame: each goes back to run by itself."""


@dataclass(slots=True)
class Counters:
    """What was asked of a model, in rows, since the kernel began; `batches` in batches."""

    offered: int = 0
    answered_in_slo: int = 0
    answered_late: int = 0
    refused: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    batches: int = 0
    backlog: int = 0
    in_flight: int = 0
