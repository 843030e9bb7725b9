"""What became of requests: one by one, and in columns for many."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
import numpy as np
from numpy.typing import NDArray

Tags: TypeAlias = Mapping[str, str | int | float | bool]

ANSWERED = grpc.StatusCode.OK.name
EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED.name
REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED.name
CANCELLED = grpc.StatusCode.CANCELLED.name
UNSENT = "UNSENT"
"""Not a status of gRPC's: the generator had too many requests under way to send this one."""
MALFORMED = "MALFORMED"
"""Nor is this: the status was OK, but what came with it is no answer."""

CODES = (*(code.name for code in grpc.StatusCode), UNSENT, MALFORMED)
NUMBER_OF_CODE = {name: number for number, name in enumerate(CODES)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request; times in seconds from the start.

    Attributes:
        intended_s: when it was meant to be sent.
        lag_s: how much later the generator got to it.
        done_s: when its fate was known.
        code: gRPC's name of the status, UNSENT or MALFORMED.
        tags: the answer's parameters.
    """

    intended_s: float
    lag_s: float
    done_s: float
    code: str
    tags: Tags = field(default_factory=dict)

    @property
    def latency_s(self) -> float:
        """Seconds from when it was meant to be sent until its fate was known."""
        return self.done_s - self.intended_s


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Outcomes in the order in which they became known.

    Attributes:
        intended_s, lag_s, done_s: as in `Outcome`; float64 of one length.
        code: indices into CODES; int16 of that length.
    """

    intended_s: NDArray[np.float64]
    lag_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    code: NDArray[np.int16]

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """See `Outcome`."""
        return self.done_s - self.intended_s

    def __len__(self) -> int:
        return len(self.code)


class Log:
    """Gathers outcomes into columns, some tens of bytes each."""

    __slots__ = ("_code", "_done_s", "_intended_s", "_lag_s")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._intended_s, self._lag_s, self._done_s = array("d"), array("d"), array("d")
        self._code = array("h")

    def note(self, intended_s: float, lag_s: float, done_s: float, code: str) -> None:
        """Add an outcome."""
        self._intended_s.append(intended_s)
        self._lag_s.append(lag_s)
        self._done_s.append(done_s)
        self._code.append(NUMBER_OF_CODE[code])

    def take(self) -> Columns:
        """Give what was added since the last time."""
        times = (self._intended_s, self._lag_s, self._done_s)
        intended_s, lag_s, done_s = map(np.array, times)
        taken = Columns(intended_s, lag_s, done_s, np.array(self._code))
        self._clear()
        return taken
