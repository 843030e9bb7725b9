"""`python -m bench.simulator`: requests per processor second, and memory over a trace's length.

Speed: each case is run once unmeasured, which counts its batches, and then some times more. What
the planner's steps took of a run is taken apart; the rest is dispatch, devices and accounts.
Memory: one trace at three lengths, each in a process of its own; resident memory is looked at 200
times a run. Writes report.json and report.md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from rich.console import Console

from bench.paper.cells import ALL, TRACES, Cell, HardwareSet
from bench.paper.scenarios import scenario
from bench.simulator_report import Memory, Speed, memory_table, name_of, speed_table, write
from paldia.cli.progress import progress
from paldia.core import engine
from paldia.core.baselines import PALDIA, policy_named
from paldia.sim.runner import run
from paldia.sim.scenario import Fate, Times

LOAD = 0.6
WORKLOADS = ("resnet50", "mobilenet_v2", "bert", ALL)
TIME_SHARED = ("molecule-cost", "molecule-perf")
RUNS, QUICK_RUNS = 5, 3
WHOLE_S, QUICK_S = 900.0, 450.0
LENGTHS = (1, 4, 16)
SHORTEST_S, QUICK_SHORTEST_S = 300.0, 60.0
MEMORY_TRACE, MEMORY_WORKLOAD = "wikipedia", "resnet50"
EXAMPLES = """examples:
  python -m bench.simulator                          everything, in about half an hour
  python -m bench.simulator --quick                  half of each trace, in some minutes
  python -m bench.simulator --only resnet50/azure    cases whose WORKLOAD/TRACE/POLICY holds it
  python -m bench.simulator --quick --only paldia --runs 9
"""


def cases() -> Iterator[Cell]:
    """Give what is timed: models under `paldia`, and one of them under time-sharing policies."""
    pairs = [(workload, PALDIA.name) for workload in WORKLOADS]
    pairs += [(WORKLOADS[0], policy) for policy in TIME_SHARED]
    for workload, policy in pairs:
        for trace in TRACES:
            yield Cell(workload, trace, LOAD, HardwareSet.PAPER, policy)


def timed(case: Cell, duration_s: float, runs: int, told: Callable[[int], None]) -> Speed:
    """Run a case so many times; `told` gets the number of each run, 0 for the unmeasured one."""
    whole = scenario(case)
    short = replace(whole, duration_s=min(duration_s, whole.duration_s))
    policy = policy_named(case.policy)
    requests = steps = 0
    counted = _Batches()
    seconds, planner_s = [], []

    for number in range(runs + 1):
        told(number)
        with _WatchedPlanner() as spent:
            outcome = run(short, policy, sink=None if number else counted)
        requests, steps = sum(model.requests for model in outcome.models), len(spent)
        if number:
            seconds.append(outcome.cpu_s)
            planner_s.append(sum(spent))
    return Speed(case, requests, counted.count, steps, tuple(seconds), tuple(planner_s))


class _Batches:
    """Counts the batches that are answered."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self,
        model: str,
        fate: Fate,
        arrivals_s: Sequence[float] | Times,
        done_s: float,
        *,
        node_id: str = "",
        start_s: float = math.nan,
        work_s: float = math.nan,
        cold_s: Times | None = None,
    ) -> None:
        """Count one; all its requests are told at once."""
        self.count += fate is Fate.ANSWERED


class _WatchedPlanner:
    """Notes the processor seconds of each of the engine's steps."""

    def __enter__(self) -> list[float]:
        spent: list[float] = []
        step = engine.step

        def watched(*arguments: Any) -> engine.Step:
            began_s = time.process_time()
            made = step(*arguments)
            spent.append(time.process_time() - began_s)
            return made

        self._patch = mock.patch.object(engine, "step", watched)
        self._patch.start()
        return spent

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def remembered(duration_s: float) -> Memory:
    """Run so much of a long trace, and look at resident memory meanwhile.

    A short run comes first, so that what is loaded or made once doesn't count.
    """
    case = Cell(MEMORY_WORKLOAD, MEMORY_TRACE, LOAD, HardwareSet.PAPER, PALDIA.name, full=True)
    long = scenario(case)
    run(replace(long, duration_s=QUICK_SHORTEST_S / 4), PALDIA)
    process = psutil.Process()
    before_bytes = peak_bytes = process.memory_info().rss

    def look(_: float) -> None:
        nonlocal peak_bytes
        peak_bytes = max(peak_bytes, process.memory_info().rss)

    outcome = run(replace(long, duration_s=duration_s), PALDIA, look)
    requests = sum(model.requests for model in outcome.models)
    return Memory(case, duration_s, requests, before_bytes, peak_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and write what came out; 2 if that is nothing."""
    wanted = _options(arguments)
    console, aside = Console(), Console(stderr=True)
    chosen = [case for case in cases() if wanted.only in name_of(case)]
    duration_s = QUICK_S if wanted.quick else WHOLE_S
    speeds, memories = [], []
    with progress(aside, "Speed") as update:
        for at, case in enumerate(chosen):

            def told(number: int, case: Cell = case, done: float = at / len(chosen)) -> None:
                update(name_of(case), f"run {number} of {wanted.runs}", done)

            speeds.append(timed(case, duration_s, wanted.runs, told))
    if speeds:
        console.print(speed_table(speeds), markup=False, soft_wrap=True)
    if wanted.memory:
        with progress(aside, "Memory") as update:
            shortest_s = QUICK_SHORTEST_S if wanted.quick else SHORTEST_S
            for at, length in enumerate(LENGTHS):
                update(f"{length} times {shortest_s:g} s", "", at / len(LENGTHS))
                # One process for each: what a run leaves behind is no part of the next.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    memories.append(pool.apply(remembered, (length * shortest_s,)))
        console.print(memory_table(memories), markup=False, soft_wrap=True)
    if not speeds and not memories:
        aside.print(f"no case's name holds {wanted.only!r}", markup=False)
        return 2
    written = write(wanted.out, speeds, memories)
    console.print("Written: " + ", ".join(map(str, written)), markup=False, soft_wrap=True)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulator",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out/simulator"), help="where to write")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_S:g} s of each trace in place of {WHOLE_S:g} s, {QUICK_RUNS} runs",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases whose WORKLOAD/TRACE/POLICY holds it"
    )
    parser.add_argument("--runs", type=int, help=f"measured runs of each case; {RUNS} if not said")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="time only")
    wanted = parser.parse_args(arguments)
    if wanted.runs is None:
        wanted.runs = QUICK_RUNS if wanted.quick else RUNS
    if wanted.runs < 1:
        parser.error(f"--runs must be 1 or more, not {wanted.runs}")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
