"""How a deploy's progress looks: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console

from paldia.client import DeployProgress
from paldia.client.deploying import OnProgress


@contextlib.contextmanager
def shown(name: str, *, quiet: bool) -> Iterator[OnProgress]:
    """Give a callback that shows progress on stderr."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        console = Console(stderr=True, markup=False, highlight=False)
        with console.status(name) as live:
            yield lambda progress: live.update(_line(name, progress))
    else:
        yield _printer(name)


def _printer(name: str) -> OnProgress:
    last = ""

    def show(progress: DeployProgress) -> None:
        nonlocal last
        if progress.fraction is not None and progress.fraction < 1:
            return
        line = _line(name, progress)
        if line != last:
            last = line
            print(line, file=sys.stderr, flush=True)

    return show


def _line(name: str, progress: DeployProgress) -> str:
    return f"{name} {progress.stage}" + (f": {progress.detail}" if progress.detail else "")
