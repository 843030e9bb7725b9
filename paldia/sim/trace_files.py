"""Reads traces from CSV files, in whichever of the known layouts they are.

The header tells the layout. Lines that start with # and empty ones are remarks. Files of
single requests and those of Azure Functions are read line by line, so they may be of any size;
counts per interval are held, eight bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paldia.core.errors import InvalidArgumentError
from paldia.sim.trace import Trace
from paldia.sim.trace_columns import BURSTY, Counts, Row, interval_of, rows, seconds_of, selected
from paldia.sim.trace_recorded import recorded
from paldia.sim.trace_sources import Counted, Source, Steady

LAYOUTS = """a trace is a CSV file whose first line is one of
  second,requests               counts per second; also minute, hour or day
  minute,NAME,NAME,...          counts of several functions side by side
  HashOwner,...,Trigger,1,2,... Azure Functions, as published: a function a line, a minute a column
  t_s                           a time in seconds, or a date and time, for each request; also
                                timestamp; other columns may follow
or has a time in seconds on each line and nothing else.
poisson:RATE and poisson:RATE:SECONDS are traces of a constant rate"""
"""What is understood, for messages and help."""

_INTERVALS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_COUNT_NAMES = ("requests", "count", "invocations")
_TIME_NAMES = ("t_s", "time_s", "timestamp")
_CELL_LIMIT = 10_000_000
"""Most counts held from one file."""
_STEADY_LENGTH_S = 3600.0
_STEADY = "poisson:"


def open_trace(spec: str, *, function: str = BURSTY, seed: int = 0) -> Trace:
    """Open a trace.

    Args:
        spec: a file's path, or `poisson:RATE[:SECONDS]` for a constant rate, an hour long.
        function: where a file holds several functions: one's name or the start of it, `all` for
            their sum, `bursty` for the sum of those whose counts have a standard deviation above
            their mean.
        seed: of what is left to chance: where in its interval a request comes, and which
            requests stay or are doubled when the load is changed.

    Raises:
        InvalidArgumentError: it can't be read; the message names file, line and what was expected.
    """
    if spec.lower().startswith(_STEADY):
        return Trace(spec.lower(), _steady(spec[len(_STEADY) :]), seed)
    path = Path(spec)
    if not path.is_file():
        raise InvalidArgumentError(f"there is no trace at {spec}; give a CSV file or poisson:RATE")
    return Trace(path.stem, _source(path, function), seed)


def _steady(text: str) -> Source:
    rate, _, length = text.partition(":")
    try:
        made = Steady(float(rate), float(length or _STEADY_LENGTH_S))
    except ValueError:
        made = Steady(math.nan, math.nan)
    if not (0 < made.requests_per_second < math.inf and 0 < made.length_s < math.inf):
        raise InvalidArgumentError(
            "poisson: takes requests per second and, if it isn't an hour, seconds: poisson:200 or "
            f"poisson:200:600, not poisson:{text}"
        )
    return made


def _source(path: Path, function: str) -> Source:
    header = next(rows(path), None)
    if header is None:
        raise InvalidArgumentError(f"{path} holds no line but remarks; {LAYOUTS}")
    names = [cell.lower() for cell in header.cells]
    if "hashfunction" in names and "1" in names:
        return _counted(path, _azure(path, header, function), 60.0)
    unit = names[0].partition("_")[0].removesuffix("s")
    if unit in _INTERVALS_S and len(names) > 1:
        return _counted(path, _per_interval(path, header, unit, function), _INTERVALS_S[unit])
    for name in _TIME_NAMES:
        if name in names:
            return recorded(path, names.index(name), has_header=True)
    if len(names) == 1 and seconds_of(names[0]) is not None:
        return recorded(path, 0, has_header=False)
    found = ",".join(header.cells)[:80]
    raise InvalidArgumentError(
        f"{path}, line {header.number}: {found!r} is no header that is known; {LAYOUTS}"
    )


def _counted(path: Path, counts: Counts, interval_s: float) -> Source:
    if not counts.any():
        raise InvalidArgumentError(f"{path} holds no requests: all counts are 0")
    return Counted(counts, interval_s)


def _per_interval(path: Path, header: Row, unit: str, function: str) -> Counts:
    """Give counts by interval; intervals that are left out have none."""
    names = [cell.lower() for cell in header.cells]
    one = next((names.index(name) for name in _COUNT_NAMES if name in names), None)
    columns = slice(1, None) if one is None else slice(one, one + 1)
    limit = _CELL_LIMIT // len(names[columns])
    indices: list[int] = []
    found: list[list[int]] = []
    for row in _body(path):
        row.expect(len(names))
        index = interval_of(row, _INTERVALS_S[unit], unit)
        if indices and index <= indices[-1]:
            raise row.error(f"a {unit} later than the line before; sort them", row.cells[0])
        if indices and index - indices[0] >= limit:
            raise row.error(f"at most {limit:,} {unit}s from first to last", row.cells[0])
        indices.append(index)
        found.append(row.counts(columns))
    if not indices:
        raise InvalidArgumentError(f"{path} holds a header and no counts")
    counts = np.zeros((indices[-1] - indices[0] + 1, len(names[columns])), np.int64)
    counts[np.array(indices) - indices[0]] = found
    if one is not None:
        return counts[:, 0]
    pairs = zip(header.cells[columns], counts.T, strict=True)
    return selected(pairs, function, len(counts), path)


def _azure(path: Path, header: Row, function: str) -> Counts:
    """Give counts by the minute out of a file with a function on each line."""
    names = [cell.lower() for cell in header.cells]
    label, first = names.index("hashfunction"), names.index("1")
    minutes = len(names) - first
    if names[first:] != [str(minute) for minute in range(1, minutes + 1)]:
        raise header.error(
            "columns 1, 2, 3 ... up to the last, one a minute", ",".join(names[first:])
        )

    def functions() -> Iterator[tuple[str, Counts]]:
        for row in _body(path):
            row.expect(len(names))
            yield row.cells[label], np.array(row.counts(slice(first, None)), np.int64)

    return selected(functions(), function, minutes, path)


def _body(path: Path) -> Iterator[Row]:
    """Give the rows below the header."""
    lines = rows(path)
    next(lines)
    return lines
