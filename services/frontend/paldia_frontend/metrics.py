"""What Prometheus and the log learn of requests.

A line for every success would cost more than the request, so successes are logged at debug
level only, and failures at a bounded rate.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from paldia.kit.clock import Clock
from paldia.kit.observability import logger
from paldia.kit.text import shorten

# From 1 ms to 30 s, three to a factor of ten and closer where objectives lie.
_SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15),
    *(0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIOS = (0.5, 0.65, 0.75, 0.85, 0.95, 1.05, 1.15, 1.25, 1.5, 2, 3, 5)
_LINES_PER_S = 10.0
_WORDS_MOST_BYTES = 1024
"""Of a name that a client made up, or of an error that repeats it."""


class Metrics:
    """The frontend's own figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "paldia_requests", "Requests ended, by status code.", ["model", "code"],
            registry=self.registry,
        )  # fmt: skip
        self.refusals = Counter(
            "paldia_receipts_refused", "Calls that weren't let in, by cause.", ["cause"],
            registry=self.registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "paldia_request_seconds", "From a request's arrival to its end.", ["model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "paldia_queue_seconds", "From a request's arrival to the start of its batch.",
            ["model"], buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batch_rows = Histogram(
            "paldia_batch_rows", "Rows in a call to Triton.", ["model", "node"],
            buckets=_ROWS, registry=self.registry,
        )  # fmt: skip
        self.batch_ratio = Histogram(
            "paldia_batch_seconds_over_measured",
            "How long batches took over what was measured of them.", ["model", "node"],
            buckets=_RATIOS, registry=self.registry,
        )  # fmt: skip
        self.backlog_rows = Gauge(
            "paldia_backlog_rows", "Rows that wait now.", ["model"], registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip

    def note_batch(self, model: str, node_id: str, rows: int, waits_s: Iterable[float]) -> None:
        """Note that a batch starts, after its requests have waited so long."""
        queue_seconds = self.queue_seconds.labels(model)
        for wait_s in waits_s:
            queue_seconds.observe(wait_s)
        self.batch_rows.labels(model, node_id).observe(rows)

    def note_ratio(self, model: str, node_id: str, ratio: float) -> None:
        """Note how long a batch took over what was measured."""
        self.batch_ratio.labels(model, node_id).observe(ratio)


class RequestLog:
    """One line for a request, where it is worth one."""

    def __init__(self, clock: Clock, *, successes: bool) -> None:
        """Log failures, and `successes` too if asked."""
        self._clock = clock
        self._successes = successes
        self._allowance = _LINES_PER_S
        self._as_of_s = clock.monotonic_s()
        self._unsaid = 0

    def ended(self, model: str, request_id: str, code: str, seconds: float, error: str) -> None:
        """Note a request's end; `error` is empty for a success."""
        if not error:
            if self._successes:
                logger().debug("request.answered", model=model, id=request_id, seconds=seconds)
            return
        now_s = self._clock.monotonic_s()
        self._allowance = min(
            _LINES_PER_S, self._allowance + (now_s - self._as_of_s) * _LINES_PER_S
        )
        self._as_of_s = now_s
        if self._allowance < 1:
            self._unsaid += 1
            return
        self._allowance -= 1
        logger().warning(
            "request.failed",
            model=shorten(model, _WORDS_MOST_BYTES),
            id=shorten(request_id, _WORDS_MOST_BYTES),
            code=code,
            seconds=round(seconds, 6),
            error=shorten(error, _WORDS_MOST_BYTES),
            unsaid=self._unsaid,
        )
        self._unsaid = 0
