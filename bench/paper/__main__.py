"""Run the evaluation: `python -m bench.paper` for the quick form, `--full` for all of it.

Cells run in parallel and are kept as they finish, so a run that was stopped goes on where it
was; a change of the code it depends on starts anew.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.paper import cells as matrix
from bench.paper.cells import Cell
from bench.paper.report import write
from bench.paper.run import figures

AHEAD = 4
"""Cells handed out for each process that runs; the rest wait, so that Ctrl-C ends soon."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the report; 130 after Ctrl-C."""
    options = _options().parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    wanted = [
        cell
        for cell in (matrix.full() if options.full else matrix.quick())
        if options.only in "/".join((cell.workload, cell.trace, cell.hardware_set.value))
    ]
    fingerprint = matrix.fingerprint()
    kept = out / "cells.jsonl"
    known = _known(kept)
    missing = [cell for cell in wanted if cell.key(fingerprint) not in known]
    began_s = time.monotonic()
    stopped = False
    try:
        for cell, row in _run(missing, options.jobs, len(wanted) - len(missing)):
            known[cell.key(fingerprint)] = row
            with kept.open("a") as file:
                file.write(json.dumps({"key": cell.key(fingerprint), "row": row}) + "\n")
    except KeyboardInterrupt:
        stopped = True
        print("stopped; what is finished is kept, run it again to go on", file=sys.stderr)
    rows = [known[key] for cell in wanted if (key := cell.key(fingerprint)) in known]
    if rows:
        write(out, rows, wall_s=time.monotonic() - began_s, ran=len(missing))
        print(f"{len(rows)} of {len(wanted)} cells in {out / 'report.md'}")
    return 130 if stopped else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description=__doc__)
    parser.add_argument("--full", action="store_true", help="whole traces, every dimension")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cells whose WORKLOAD/TRACE/HARDWARE holds it"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("out/paper"))
    return parser


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """Give the rows of earlier runs; a torn last line is left out."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            kept = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[kept["key"]] = kept["row"]
    return rows


def _run(cells: Sequence[Cell], jobs: int, done: int) -> Iterable[tuple[Cell, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        Progress(*columns, TimeRemainingColumn()) as progress,
    ):
        task = progress.add_task("cells", total=done + len(cells), completed=done)
        left = iter(cells)
        running: dict[Future[dict[str, Any]], Cell] = {}
        try:
            while True:
                while len(running) < jobs * AHEAD and (cell := next(left, None)) is not None:
                    running[pool.submit(figures, cell)] = cell
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
                    progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
