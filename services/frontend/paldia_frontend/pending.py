"""Requests that somebody waits for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paldia.core.errors import PaldiaError
from paldia.kit.clock import Clock
from paldia_frontend.requests import Normalised
from paldia_frontend.routes import Route

_TIMEOUT_LEAST_S = 0.001


@dataclass(slots=True, eq=False)
class Pending:
    """A request that somebody waits for.

    `future` gives the answer or, where the caller makes the call itself, the batch to make.
    """

    request_id: int
    route: Route
    asked: Normalised
    arrival_s: float
    deadline_s: float | None
    makes_call: bool
    future: asyncio.Future[Any]
    error: PaldiaError | None = None


def time_left_s(members: Sequence[Pending], clock: Clock) -> float | None:
    """Time until the last caller gives up; one that does so before is let go then.

    None where one of them never does.
    """
    latest_s = max(math.inf if it.deadline_s is None else it.deadline_s for it in members)
    if math.isinf(latest_s):
        return None
    return max(_TIMEOUT_LEAST_S, latest_s - clock.monotonic_s())
