"""Who is let in: as many as the limits allow, and whom a model that sheds can serve in time."""

from __future__ import annotations

import math

from paldia.core.dispatch.model import ModelState
from paldia.core.dispatch.queue import Load
from paldia.core.dispatch.requests import Request
from paldia.core.dispatch.types import Limits, Refuse, RefuseCause


class Admission:
    """What the limits make of what waits.

    Attributes:
        load: what waits of all models; they keep it.
    """

    def __init__(self, limits: Limits) -> None:
        self.load = Load()
        self._limits = limits

    def refusal(self, model: ModelState, request: Request) -> Refuse | None:
        """Refuse a request, as of its arrival, or not."""
        plan, now_s = model.plan, request.arrival_s
        is_full = self._is_full(model, request.size_bytes)
        if not is_full and not model.sheds:
            return None
        done_s = model.best_completion_s(request)
        # Nothing can be foretold while no lane is at hand, not even that somebody will be late.
        is_foretold = math.isfinite(done_s)
        if is_full:
            wait_s = done_s - now_s if is_foretold else 0.0
            return Refuse.until(request.request_id, RefuseCause.QUEUE_FULL, wait_s)
        # Nor may it make those late with whom it shares a batch, for the batch is longer with it.
        due_s = min(now_s + plan.slo.latency_s, model.first_due_s(request))
        late_s = done_s - due_s
        if is_foretold and late_s > 0:
            return Refuse.until(request.request_id, RefuseCause.SLO, late_s)
        return None

    def count_together(self, model: ModelState, first: Request, count: int) -> int:
        """How many of a run may go in as one stay: they are not refused and wait alike.

        While a model is cold each of them waits its own time, and where it sheds each is
        refused or not by what waits before it.
        """
        if first.like_key is None or model.is_cold or model.sheds:
            return 0
        return max(0, min(count, self._room(model, first.size_bytes)))

    def _is_full(self, model: ModelState, size_bytes: int) -> bool:
        """Whether the limits allow no further request of a size."""
        limits = self._limits
        return (
            model.load.requests >= limits.requests_per_model
            or self.load.requests >= limits.requests_in_all
            or model.load.size_bytes + size_bytes > limits.bytes_per_model
            or self.load.size_bytes + size_bytes > limits.bytes_in_all
        )

    def _room(self, model: ModelState, size_bytes: int) -> int:
        """How many requests of a size the limits allow now."""
        limits = self._limits
        load, in_all = model.load, self.load
        room = min(
            limits.requests_per_model - load.requests, limits.requests_in_all - in_all.requests
        )
        bytes_left = min(
            limits.bytes_per_model - load.size_bytes, limits.bytes_in_all - in_all.size_bytes
        )
        if size_bytes:
            return min(room, bytes_left // size_bytes)
        return room if bytes_left >= 0 else 0
