"""How far something is: a display that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Update(Protocol):
    """Tells how far a step has come."""

    def __call__(self, stage: str, detail: str = "", fraction: float | None = None) -> None:
        """Say the stage, what is worth knowing of it, and the share done if that is known."""


@contextlib.contextmanager
def progress(console: Console, title: str) -> Iterator[Update]:
    """Show a step while it lasts; elsewhere than on a terminal, a line for each thing said.

    What only counts on, its fraction says so, is told once for each stage.
    """
    if console.quiet:
        yield lambda stage, detail="", fraction=None: None
        return
    if not console.is_terminal:
        said = ("", "")

        def say(stage: str, detail: str = "", fraction: float | None = None) -> None:
            nonlocal said
            news = (stage, detail if fraction is None else "")
            if news != said:
                print(_line(title, stage, detail), file=console.file, flush=True)
                said = news

        yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as display:
        task = display.add_task(title, total=None)

        def show(stage: str, detail: str = "", fraction: float | None = None) -> None:
            display.update(
                task,
                description=escape(_line(title, stage, detail)),
                total=None if fraction is None else 1.0,
                completed=fraction or 0.0,
            )

        yield show


def _line(title: str, stage: str, detail: str) -> str:
    return f"{title} {stage}" + (f": {detail}" if detail else "")
