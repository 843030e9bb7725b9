"""A model's requests on their way through the simulation, and the times it had no lane."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paldia.sim.arrivals import Feed
from paldia.sim.cluster import Process
from paldia.sim.measure import ModelMeter

COLD_SPANS_KEPT = 64


class Stream:
    """A model's requests, and what is known of the lanes that take them.

    Attributes:
        index: its place in the order of events at one time.
        lanes: the processes that requests are sent to.
        free: free places for batches on them.
        due_s: the arrival that is down as an event; infinity while none is.
        is_awaited: whether a request is to wake the planner, for the model is planned nowhere.
        warm_since_s: when it last got lanes after a time without; -infinity if it never did.
    """

    __slots__ = (
        *("_cold_since_s", "_cold_spans", "due_s", "feed", "free", "index", "is_awaited"),
        *("lanes", "meter", "name", "warm_since_s"),
    )

    def __init__(self, name: str, index: int, feed: Feed, meter: ModelMeter) -> None:
        self.name = name
        self.index = index
        self.feed = feed
        self.meter = meter
        self.lanes: tuple[Process, ...] = ()
        self.free = 0
        self.due_s = math.inf
        self.is_awaited = False
        self.warm_since_s = -math.inf
        # Since when it has had no lane, infinity while it has one; and the latest times without.
        self._cold_since_s = -math.inf
        self._cold_spans: list[tuple[float, float]] = []

    def note_lanes(self, now_s: float) -> None:
        """Note whether it has lanes from now on."""
        is_cold = self._cold_since_s < math.inf
        if self.lanes and is_cold:
            span = (self._cold_since_s, now_s)
            self._cold_spans = [*self._cold_spans[1 - COLD_SPANS_KEPT :], span]
            self._cold_since_s, self.warm_since_s = math.inf, now_s
        elif not self.lanes and not is_cold:
            self._cold_since_s = now_s

    def cold_s(self, arrivals_s: Sequence[float], start_s: float) -> npt.NDArray[np.float64]:
        """Seconds of each request's wait, up to `start_s`, during which there was no lane."""
        arrived_s = np.array(arrivals_s)
        waited_s = np.zeros_like(arrived_s)
        for from_s, until_s in self._cold_spans:
            waited_s += np.maximum(0.0, min(start_s, until_s) - np.maximum(arrived_s, from_s))
        return waited_s
