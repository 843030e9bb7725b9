"""Reads files of single requests, some thousands of lines at a time, each time anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from paldia.core.errors import InvalidArgumentError
from paldia.sim.scenario import Times
from paldia.sim.trace_columns import Row, opened, row_of, rows, seconds_of
from paldia.sim.trace_sources import CHUNK, Recorded


def recorded(path: Path, column: int, *, has_header: bool) -> Recorded:
    """Read through a file once: check it, and see how long it is.

    Time counts from its first request. It ends a mean gap after its last one.

    Args:
        column: where the times stand, from 0.

    Raises:
        InvalidArgumentError: a line has no time, or one before the line above it.
    """
    first = next(islice(rows(path), int(has_header), None), None)
    if first is None:
        raise InvalidArgumentError(f"{path} holds a header and no requests")
    blocks = _Blocks(path, column, first.number, _time(first, column))
    number, last_s = 0, 0.0
    for block in blocks():
        number += len(block)
        last_s = float(block[-1])
    gap_s = last_s / (number - 1) if last_s > 0 else 1.0
    return Recorded(blocks, last_s + gap_s)


def _time(row: Row, column: int) -> float:
    text = row.cells[column] if column < len(row.cells) else ""
    seconds = seconds_of(text)
    if seconds is None:
        raise row.error(f"a time in seconds, or a date and time, in column {column + 1}", text)
    return seconds


@dataclass(frozen=True, slots=True)
class _Blocks:
    path: Path
    column: int
    first_line: int
    start_s: float

    def __call__(self) -> Iterator[Times]:
        """Give the times of so many lines at a time, from 0 on."""
        last_s = self.start_s
        number = self.first_line
        with opened(self.path) as file:
            lines = islice(file, self.first_line - 1, None)
            while block := list(islice(lines, CHUNK)):
                times = self._times(block, number)
                if np.any(np.diff(times, prepend=last_s) < 0):
                    raise self._backwards(block, number, last_s)
                number += len(block)
                if len(times):
                    last_s = float(times[-1])
                    yield times - self.start_s

    def _times(self, block: Sequence[str], number: int) -> Times:
        try:
            # Most files are numbers line by line: three times as fast as with care.
            plain = [float(line.split(",", self.column + 1)[self.column]) for line in block]
        except (ValueError, IndexError):
            plain = [math.nan]
        if all(map(math.isfinite, plain)):
            return np.array(plain)
        return np.array([_time(row, self.column) for row in self._rows(block, number)])

    def _rows(self, block: Sequence[str], number: int) -> Iterator[Row]:
        for at, line in enumerate(block, number):
            row = row_of(self.path, at, line)
            if row is not None:
                yield row

    def _backwards(self, block: Sequence[str], number: int, last_s: float) -> InvalidArgumentError:
        for row in self._rows(block, number):
            time_s = _time(row, self.column)
            if time_s < last_s:
                break
            last_s = time_s
        return row.error("a time no earlier than the line above; sort them", row.cells[self.column])
