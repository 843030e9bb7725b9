"""How hard the process works, and what it leaves itself time for. Pure.

A call to Triton costs as much as taking two requests in. Where lanes are free, each request goes
at once, so a process that has more to do than it can spends most of its time on calls of one
or two rows. So a busy one waits a moment for more to merge: it costs latency where there is a
queue before the process already, and saves what that queue is made of. An idle one doesn't wait.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY_FROM = 0.6
"""Share of a core from which on it waits."""
GATHER_MOST_S = 0.003
_WEIGHT = 0.5


@dataclass
class Effort:
    """Follows the processor time that the process takes.

    Attributes:
        gather_s: how long a decision waits for further requests.
    """

    gather_s: float = 0.0
    _busy: float = 0.0
    _as_of_s: float | None = None
    _cpu_s: float = 0.0

    def sample(self, now_s: float, cpu_s: float) -> None:
        """Take in the processor time so far, some tenths of a second after the last time."""
        if self._as_of_s is not None and now_s > self._as_of_s:
            busy = (cpu_s - self._cpu_s) / (now_s - self._as_of_s)
            self._busy += _WEIGHT * (busy - self._busy)
        self._as_of_s, self._cpu_s = now_s, cpu_s
        share = (self._busy - BUSY_FROM) / (1.0 - BUSY_FROM)
        self.gather_s = GATHER_MOST_S * min(1.0, max(0.0, share))
