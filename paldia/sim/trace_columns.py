"""Rows and columns of a trace's file, and the functions in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from paldia.core.errors import InvalidArgumentError

Counts = npt.NDArray[np.int64]

BURSTY = "bursty"
ALL = "all"
COUNT_LIMIT = 10**12
"""Most requests in an interval."""

_NAMES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Row:
    """A line that isn't a remark, cut at its commas."""

    path: Path
    number: int
    cells: list[str]

    def error(self, expected: str, found: str) -> InvalidArgumentError:
        """Say what should be here, and what is."""
        return InvalidArgumentError(
            f"{self.path}, line {self.number}: expected {expected}, found {found[:80]!r}"
        )

    def expect(self, columns: int) -> None:
        """Check the number of columns.

        Raises:
            InvalidArgumentError: there are more or fewer.
        """
        if len(self.cells) != columns:
            raise self.error(f"{columns} columns as in the header", ",".join(self.cells))

    def counts(self, columns: slice) -> list[int]:
        """Read counts, whole numbers of 0 or more.

        Raises:
            InvalidArgumentError: a cell holds something else.
        """
        try:
            found = [int(cell) for cell in self.cells[columns]]
        except ValueError:
            return [self._count(cell) for cell in self.cells[columns]]
        if min(found) < 0 or max(found) > COUNT_LIMIT:
            return [self._count(cell) for cell in self.cells[columns]]
        return found

    def _count(self, text: str) -> int:
        value = _number(text)
        if value is None or not 0 <= value <= COUNT_LIMIT or value != math.floor(value):
            raise self.error(f"a whole number of requests, 0 to {COUNT_LIMIT:g}", text)
        return int(value)


def opened(path: Path) -> TextIO:
    """Open a file for reading; what isn't UTF-8 shows up as a cell that makes no sense."""
    return path.open(encoding="utf-8-sig", errors="replace")


def rows(path: Path) -> Iterator[Row]:
    """Give the lines of a file but remarks and empty ones."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            row = row_of(path, number, line)
            if row is not None:
                yield row


def row_of(path: Path, number: int, line: str) -> Row | None:
    """Cut a line; None for a remark or an empty one."""
    if line.startswith("#") or not line.strip():
        return None
    return Row(path, number, [cell.strip() for cell in line.split(",")])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def moment_of(text: str) -> float | None:
    """Give the seconds since 1970 of a date and time, UTC if it doesn't say; None if it is none."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def seconds_of(text: str) -> float | None:
    """Give a number of seconds, or those of a date and time; None if it is neither."""
    value = _number(text)
    return moment_of(text) if value is None else value


def interval_of(row: Row, interval_s: float, unit: str) -> int:
    """Give which interval a row is about: its first cell's number, or when it starts.

    Raises:
        InvalidArgumentError: the cell is neither.
    """
    at = _number(row.cells[0])
    if at is None:
        moment_s = moment_of(row.cells[0])
        at = None if moment_s is None else moment_s / interval_s
    if at is None or at != math.floor(at):
        raise row.error(f"the number of a {unit}, or its date and time", row.cells[0])
    return int(at)


def selected(
    functions: Iterable[tuple[str, Counts]], wanted: str, length: int, path: Path
) -> Counts:
    """Give one function's counts or the sum of several.

    Args:
        functions: names and counts by interval.
        wanted: `all`, `bursty` (the standard deviation is above the mean), a name, or the start
            of just one.

    Raises:
        InvalidArgumentError: there is no such function, or several names start like that.
    """
    total = np.zeros(length, np.int64)
    names: list[str] = []
    for name, counts in functions:
        if wanted == BURSTY:
            fits = bool(counts.std() > counts.mean())
        else:
            fits = wanted == ALL or name.startswith(wanted)
        if name == wanted:
            return counts
        if fits:
            total += counts
        if fits or len(names) < _NAMES_SHOWN:
            names.append(name)
    if wanted in (ALL, BURSTY):
        return total
    found = [name for name in names if name.startswith(wanted)]
    if len(found) == 1:
        return total
    problem = "several start" if found else "no function's name starts"
    shown = ", ".join((found or names)[:_NAMES_SHOWN])
    raise InvalidArgumentError(
        f"{path}: {problem} with {wanted!r}; give {ALL}, {BURSTY} or one name, such as {shown}"
    )
