"""What the command prints: tables on a terminal, plain text elsewhere, JSON if asked.

Results go to stdout; progress and errors go to stderr.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

_PIPE_WIDTH = 100_000


def print_json(result: object) -> None:
    """Print a result as one JSON document; its keys are the names of the result's fields."""
    print(json.dumps(plain(result), indent=2), flush=True)


def plain(value: object) -> Any:
    """Give a result as what JSON knows: enums by value, moments in ISO 8601, NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Make a table; headings that start with `>` stand over columns of numbers.

    A column without a single entry is left out.
    """
    made = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    kept = [index for index in range(len(headings)) if any(row[index] for row in rows)]
    for index in kept:
        heading = headings[index].removeprefix(">")
        made.add_column(heading, justify="left" if heading == headings[index] else "right")
    for row in rows:
        made.add_row(*(row[index] for index in kept))
    return made


def show(*parts: RenderableType) -> None:
    """Print tables and lines to stdout, as wide as they are where it isn't a terminal."""
    if sys.stdout.isatty():
        Console(markup=False, highlight=False).print(*parts, sep="\n")
        return
    print(as_text(*parts), flush=True)


def as_text(*parts: RenderableType) -> str:
    """Render for a pipe: no colours, no lines, nothing cut or wrapped."""
    for part in parts:
        if isinstance(part, Table):
            part.box, part.padding = None, (0, 2, 0, 0)
    out = io.StringIO()
    console = Console(file=out, width=_PIPE_WIDTH, no_color=True, markup=False, highlight=False)
    console.print(Group(*parts))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def moment(time: datetime | None) -> str:
    """Give a moment in local time; `-` if it is unknown."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else "-"
