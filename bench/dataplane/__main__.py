"""Run the comparison: `python -m bench.dataplane`, or `--quick` for a first look.

First each contender is tried with each workload, which also tells the rate that latencies are
compared at; then all are visited in another order each time. The report is written after each
visit. `--resume` goes on where a run was stopped.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from bench.dataplane import environments
from bench.dataplane.contenders import Contender, contenders
from bench.dataplane.environments import Environment
from bench.dataplane.measure import pilot, visit
from bench.dataplane.report import write
from bench.dataplane.session import Session
from bench.dataplane.summary import rate_of, rows
from bench.dataplane.workloads import Workload, workloads
from paldia.core.errors import PaldiaError

REPEATS = 5
SECONDS = 8.0
SEED = 5
_QUICK_REPEATS, _QUICK_SECONDS = 1, 3.0
_OURS = ("paldia", "grpcio", "tritonclient", "nvidia-pytriton", "numpy", "onnxruntime")

Couple: TypeAlias = tuple[Contender, Workload]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the report; 130 after Ctrl-C."""
    options = _options().parse_args(arguments)
    repeats = options.repeats or (_QUICK_REPEATS if options.quick else REPEATS)
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else SECONDS)
    options.out.mkdir(parents=True, exist_ok=True)
    # Ended that way, too, it stops all that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session = Session(options.out / "visits.jsonl", seconds)
    if options.resume:
        session.read()
    else:
        session.path.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="paldia-dataplane-") as folder:
            run = _Run(session, Path(folder), options.out, Console())
            couples = run.couples(options.only)
            if not couples:
                print(f"nothing has {options.only!r} in its WORKLOAD/SYSTEM", file=sys.stderr)
                return 2
            run.all_of(couples, repeats)
    except KeyboardInterrupt:
        print("stopped; --resume goes on", file=sys.stderr)
        return 130
    return 0


@dataclass(frozen=True, slots=True)
class _Run:
    session: Session
    folder: Path
    out: Path
    console: Console

    def couples(self, only: str) -> list[Couple]:
        """Give who is to serve what; environments are made for it."""
        made = dict(self._environments())
        return [
            (contender, workload)
            for workload in workloads()
            for contender in contenders(made)
            if contender.can(workload) and only in f"{workload.name}/{contender.system}"
        ]

    def all_of(self, couples: Iterable[Couple], repeats: int) -> None:
        """Try all, then visit those that serve."""
        able = [couple for couple in couples if self._serves(*couple)]
        peaks: dict[str, dict[str, float]] = {}
        for contender, workload in able:
            found = self.session.pilots[contender.system, workload.name]
            peaks.setdefault(workload.name, {})[contender.system] = found.peak_rps
        dice = random.Random(SEED)  # noqa: S311 - an order, no secret
        for repeat in range(repeats):
            for number, (contender, workload) in enumerate(dice.sample(able, len(able)), 1):
                if (contender.system, workload.name, repeat) in self.session.visits:
                    continue
                what = f"{repeat + 1}/{repeats} {number}/{len(able)}"
                self._visit(contender, workload, repeat, rate_of(peaks[workload.name]), what)
                self._report(able)
        self._report(able)
        self._say((self.out / "report.md").read_text())

    def _environments(self) -> Iterator[tuple[str, Environment]]:
        for name in environments.REQUIREMENTS:
            try:
                with self.console.status(f"installing {name}"):
                    found = environments.prepare(name)
            except PaldiaError as error:
                self._skip(name, error)
            else:
                yield name, found

    def _serves(self, contender: Contender, workload: Workload) -> bool:
        """Whether a contender could be tried, now or by an earlier run."""
        pair = (contender.system, workload.name)
        if pair in self.session.pilots:
            return True
        what = f"trying {workload.name}, {contender.system}"
        try:
            with self.console.status(what):
                own = self._own_folder(contender, workload)
                found = pilot(contender, workload, own, self.session.seconds / 2)
        except PaldiaError as error:
            self._skip(f"{contender.system}, {workload.name}", error)
            return False
        self.session.keep_pilot(pair, found)
        self._say(f"{what}: {found.peak_rps:.0f}/s with {found.callers} callers")
        return True

    def _visit(
        self, contender: Contender, workload: Workload, repeat: int, rate_rps: float, what: str
    ) -> None:
        pair = (contender.system, workload.name)
        try:
            with self.console.status(f"{what} {workload.name}, {contender.system}"):
                found = visit(
                    contender,
                    workload,
                    self._own_folder(contender, workload),
                    callers=self.session.pilots[pair].callers,
                    rate_rps=rate_rps,
                    seconds=self.session.seconds,
                )
        except PaldiaError as error:
            self._skip(f"{contender.system}, {workload.name}, repeat {repeat + 1}", error)
            return
        self.session.keep_visit(pair, repeat, found)
        self._say(
            f"{what} {workload.name}, {contender.system}: {found['peak_rps']:.0f}/s, "
            f"{found['cpu_us_per_request']:.0f} us, p50 {found['p50_ms']} ms, "
            f"{found['errors']} errors"
        )

    def _skip(self, who: str, error: PaldiaError) -> None:
        # What its log ends with is told here, and not in the report.
        self.session.skipped[who] = str(error).partition("\n")[0]
        self._say(f"{who}: {error}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _own_folder(self, contender: Contender, workload: Workload) -> Path:
        """Give a folder for one couple; only PALDIA's is kept, with what it has measured."""
        name = "".join(letter if letter.isalnum() else "-" for letter in contender.system)
        own = self.folder / workload.name / name
        if not contender.system.startswith("PALDIA"):
            shutil.rmtree(own, ignore_errors=True)
        return own

    def _report(self, able: Sequence[Couple]) -> None:
        place = {(each.system, it.name): index for index, (each, it) in enumerate(able)}
        known = sorted(
            (key for key in self.session.visits if key[:2] in place),
            key=lambda key: (place[key[:2]], key[2]),
        )
        write(
            self.out,
            rows(self.session.visits[key] for key in known),
            versions=_versions(),
            skipped=self.session.skipped,
            machine={"cores": len(os.sched_getaffinity(0)), "processor": _processor()},
        )


def _versions() -> Mapping[str, str]:
    known = {name: importlib.metadata.version(name) for name in _OURS}
    known["python"] = platform.python_version()
    for name in environments.REQUIREMENTS:
        known |= environments.installed(name)
    return known


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.dataplane",
        description="Compare what it costs to serve a model through PALDIA, proxies and servers.",
        epilog="example: python -m bench.dataplane --only 1KB --repeats 3",
    )
    parser.add_argument("--quick", action="store_true", help="once, and briefly")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="those with this in their WORKLOAD/SYSTEM"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help=f"visits ({REPEATS})")
    parser.add_argument("--seconds", type=float, metavar="N", help=f"of each load ({SECONDS:g})")
    parser.add_argument("--resume", action="store_true", help="go on where a run was stopped")
    parser.add_argument("--out", type=Path, default=Path("out/dataplane"), help="folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
