"""Run it: `python -m bench.soak`, 30 minutes at 70 % of what was seen to be possible before.

A cluster of real processes with the identity of 1 KB, its frontend on all cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench import sending
from bench.dataplane.workloads import workloads
from bench.processes import tree
from bench.sending import Target
from bench.soak.growth import Resident, growth, wanted
from bench.soak.report import write
from bench.stage import staged
from paldia.cli.node_options import NodeOptions

MINUTES = 30.0
SHARE = 0.7
CALLERS, CLOSED_S = 128, 10.0
EVERY_S = 5.0
_NODE = "node"


def main(arguments: Sequence[str] | None = None) -> int:
    """Load a cluster for long and write the report; 130 after Ctrl-C."""
    options = _options().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="paldia-soak-") as folder:
            document, watched = _soak(Path(folder), 60 * options.minutes, console)
    except KeyboardInterrupt:
        return 130
    write(options.out, document, watched)
    console.print((options.out / "report.md").read_text(), soft_wrap=True, markup=False)
    return 0


def _soak(
    folder: Path, duration_s: float, console: Console
) -> tuple[dict[str, Any], list[Resident]]:
    workload = next(it for it in workloads() if it.name == "1KB")
    workers = len(os.sched_getaffinity(0))
    nodes = (NodeOptions(_NODE, "cpu", 0.1),)
    with staged(folder / "cluster", nodes, frontend=("--workers", str(workers))) as stage:
        stage.client.deploy(workload.write(folder), slo_latency_s=workload.slo_s)
        requests = workload.write_requests(folder / "requests.json", 8)
        target = Target(stage.frontend, workload.model, requests, folder / "load")
        peak = sending.closed(target, CALLERS, CLOSED_S)
        rate_rps = SHARE * peak["answered_rps"]
        console.print(f"{rate_rps:.0f} requests a second for {duration_s / 60:g} minutes")
        pids = {name: stage.cluster.pid(name) for name in ("controller", "frontend", _NODE)}
        with _watching(lambda: _named(pids)) as watch:
            report = sending.open_loop(target, rate_rps, duration_s, warmup_s=0.0)
        watched = watch.found()
    rows = [growth(resident, duration_s) for resident in watched]
    document = {
        "minutes": duration_s / 60,
        "peak_rps": peak["answered_rps"],
        "rate_rps": rate_rps,
        "load": {key: value for key, value in report.items() if key != "timeline"},
        "processes": rows,
        "wanted": wanted(report, rows),
    }
    return document, watched


def _named(pids: Mapping[str, int]) -> Iterator[tuple[str, psutil.Process]]:
    """Give all processes of a cluster with names that tell them apart."""
    for part, pid in pids.items():
        for process in tree(pid):
            yield f"{part}: {process.name()} {process.pid}", process


class _Watch(threading.Thread):
    """Looks at processes' memory every few seconds until it is told to end."""

    def __init__(self, processes: Callable[[], Iterator[tuple[str, psutil.Process]]]) -> None:
        super().__init__(name="memory", daemon=True)
        self.ended = threading.Event()
        self._processes = processes
        self._times_s: dict[str, list[float]] = {}
        self._held_bytes: dict[str, list[int]] = {}

    def run(self) -> None:
        """Look, and look again."""
        began_s = time.monotonic()
        while not self.ended.wait(EVERY_S):
            try:
                for name, process in self._processes():
                    self._held_bytes.setdefault(name, []).append(process.memory_info().rss)
                    self._times_s.setdefault(name, []).append(time.monotonic() - began_s)
            except psutil.NoSuchProcess:
                # One ended between two looks: its series ends there.
                continue

    def found(self) -> list[Resident]:
        """Give what was seen of each process."""
        return [
            Resident(name, times_s, self._held_bytes[name])
            for name, times_s in self._times_s.items()
        ]


@contextmanager
def _watching(
    processes: Callable[[], Iterator[tuple[str, psutil.Process]]],
) -> Iterator[_Watch]:
    watch = _Watch(processes)
    watch.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        watch.join()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description="Load a cluster for long and watch its memory."
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="N", help="length")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
