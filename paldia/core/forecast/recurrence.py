"""What comes at the same minute of each hour: timers and jobs make most bursts, and they recur.

Of each minute of the hour the highest rates of the last hours are kept. A rate is expected again
if it was reached in at least half of them: once is enough for the next two hours, and a burst
that never comes again is forgotten after the third.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paldia.core.errors import InvalidArgumentError

MINUTE_S = 60.0
MINUTES = 60
HOURS_KEPT = 3
LEAST_RATE = 1 / MINUTE_S
"""Requests per second of one in a minute; less is what is left of an average that fades."""
_UNKNOWN = -1.0


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Highest rates by minute of the hour.

    Attributes:
        minute: the minute under way, counted from time 0; -1 before the first.
        highest: requests per second at its best so far.
        hours: for each minute of the hour the highest rates of the last hours, newest first.
    """

    minute: int = -1
    highest: float = 0.0
    hours: tuple[tuple[float, ...], ...] = ((),) * MINUTES

    def after(self, requests_per_second: float, now_s: float) -> Recurrence:
        """Give what is known once the rate now is, too; a clock set back starts a new minute."""
        minute = math.floor(now_s / MINUTE_S)
        if minute == self.minute:
            if requests_per_second <= self.highest:
                return self
            return Recurrence(minute, requests_per_second, self.hours)
        if self.minute < 0:
            return Recurrence(minute, requests_per_second, self.hours)
        place = self.minute % MINUTES
        kept = (self.highest, *self.hours[place])[:HOURS_KEPT]
        hours = (*self.hours[:place], kept, *self.hours[place + 1 :])
        return Recurrence(minute, requests_per_second, hours)

    def expected(self, from_s: float, until_s: float) -> float:
        """Highest rate that a minute of that span had in at least half of the last hours."""
        first, last = math.floor(from_s / MINUTE_S), math.floor(until_s / MINUTE_S)
        minutes = range(first, min(last, first + MINUTES - 1) + 1)
        return max(map(self._usual, minutes), default=0.0)

    def begins(self, from_s: float, until_s: float, quiet_s: float) -> bool:
        """Whether requests usually come in a minute of that span, after none for so long."""
        first, last = math.floor(from_s / MINUTE_S), math.floor(until_s / MINUTE_S)
        before = range(1, min(MINUTES - 1, math.ceil(quiet_s / MINUTE_S)) + 1)
        return any(
            self._usual(minute) >= LEAST_RATE
            and all(self._usual(minute - back) < LEAST_RATE for back in before)
            for minute in range(first, min(last, first + MINUTES - 1) + 1)
        )

    def _usual(self, minute: int) -> float:
        rates = self.hours[minute % MINUTES]
        return sorted(rates, reverse=True)[(len(rates) - 1) // 2] if rates else 0.0

    def state(self) -> tuple[float, ...]:
        """Give all of it as numbers: the minute, its highest rate, and the hours of each minute."""
        padding = (_UNKNOWN,) * HOURS_KEPT
        flat = [rate for rates in self.hours for rate in (rates + padding)[:HOURS_KEPT]]
        return (float(self.minute), self.highest, *flat)

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Recurrence:
        """Undo `state`.

        Raises:
            InvalidArgumentError: these numbers are not a state.
        """
        if len(state) != 2 + MINUTES * HOURS_KEPT or not all(map(math.isfinite, state)):
            raise InvalidArgumentError(
                f"{len(state)} numbers are no record of what recurs; forget them and start anew"
            )
        rates = state[2:]
        hours = tuple(
            tuple(rate for rate in rates[at : at + HOURS_KEPT] if rate >= 0)
            for at in range(0, len(rates), HOURS_KEPT)
        )
        return cls(int(state[0]), state[1], hours)
