"""Time as an input, so that tests can hold it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks of a machine, in seconds."""

    def monotonic_s(self) -> float:
        """Never goes back; for durations and deadlines."""

    def wall_s(self) -> float:
        """UTC since 1970; for records and bills."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        """Never goes back; for durations and deadlines."""
        return time.monotonic()

    def wall_s(self) -> float:
        """UTC since 1970; for records and bills."""
        return time.time()
