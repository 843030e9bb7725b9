"""Profile models on this machine in full, then time batches that were not measured.

`python -m bench.profiles [--json FILE] [--rounds N] [MODEL ...]`. For batch sizes between and
beyond those that were measured, alone and beside others, it compares what the profile foretells
with what such batches take. Silero's weights come with a package: `pip install --no-deps
silero-vad`; without it that model is left out. What other processes come upon is timed again, and
it waits for them to end, for `--patience` seconds in all. It works in `out/profiles`; the Tritons
of a run that was killed are ended by the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.devices.nvidia import Gpus
from paldia_nodeagent.home import Home
from paldia_nodeagent.inputs import make_request, sample_item
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.ledger import Ledger
from paldia_nodeagent.logs import LogRelay
from paldia_nodeagent.measure import answer, closed_loop
from paldia_nodeagent.memory import Memory
from paldia_nodeagent.quiet import BUSY_SHARE, Quiet
from paldia_nodeagent.runtime import RuntimeFinder
from paldia_nodeagent.sharing import middle_mean
from paldia_nodeagent.site import Site
from paldia_nodeagent.survey import Bench, Survey
from paldia_nodeagent.throttle import Throttle

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.cli.samples import FOLDER, prepare
from paldia.core.errors import UnavailableError
from paldia.core.profiles import Profile
from paldia.kit.observability import configure_logging

BUDGET_S = 24.0
LARGEST_BATCH = 32
LANES = 4
CASE_S = 1.0
BUSY_CORES = 0.5
"""Others that take more than this of one core disturb."""
BATCHES = (1, 2, 3, 5, 6, 8, 12, 16)
"""Powers of two are measured alone, and but for two of them not together."""
WANTED = 0.15
SCRATCH = Path("out/profiles")


@dataclass(frozen=True, slots=True)
class Case:
    """So many batches of one size at once: milliseconds that each takes."""

    model: str
    batch: int
    lanes: int
    measured: bool
    foretold_ms: float
    took_ms: float

    @property
    def error(self) -> float:
        """How far off the foretold time is, as a share of what it took."""
        return abs(self.foretold_ms / self.took_ms - 1)


def folders(silero: Path) -> dict[str, Path]:
    """Give the model folders by name; Silero's is put together in `silero`, if it can be had."""
    prepare()
    found = {name: FOLDER / name for name in ("magika", "minilm")}
    spec = importlib.util.find_spec("silero_vad")
    if spec is not None and spec.origin:
        shutil.copytree(Path(__file__).with_name("silero_vad"), silero, dirs_exist_ok=True)
        shutil.copy(Path(spec.origin).parent / "data/silero_vad.onnx", silero / "1/model.onnx")
        found["silero_vad"] = silero
    return found


class Others:
    """The other processes on this machine, as `Quiet` sees those that serve."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._spent_s: dict[psutil.Process, float] = {}
        """By process of our own; those that have ended too, for their time is in the whole's."""

    async def busy_s(self) -> float:
        """Give the processor time that others had, so that `BUSY_CORES` of a core is the limit."""
        whole = psutil.cpu_times()
        for process in (self._own, *self._own.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._spent_s[process] = times.user + times.system
        others_s = whole.user + whole.nice + whole.system - sum(self._spent_s.values())
        return others_s * BUSY_SHARE / BUSY_CORES


async def survey(bench: Bench, model: str, folder: Path, quiet: Quiet) -> Profile:
    """Measure a model as a node agent does."""
    task = agent_pb2.ProfileTask(
        model=model,
        max_batch_size=LARGEST_BATCH,
        budget=convert.duration(BUDGET_S),
        latency_cap=convert.duration(1.0),
        full=True,
    )
    figures, _ = await Survey(bench, task, folder, quiet, lambda *_: None).run()
    profile = convert.profile_from_proto(figures)
    assert profile is not None
    print(f"\n{model}: {describe(profile)}, fit off by {figures.fit.error:.1%}", flush=True)
    return profile


def describe(profile: Profile) -> str:
    """Give a profile in a line."""
    alone = ", ".join(f"{size}: {latency_s * 1e3:.1f}" for size, latency_s in profile.points)
    demand = ", ".join(f"{size}: {share:.2f}" for size, share in profile.demand)
    slowed = ", ".join(f"{factor:.2f}" for factor in profile.interference) or "by the formula"
    return f"L(b) {alone} ms; f(b) {demand}; eps {profile.colocation_penalty:.3f}; S(k) {slowed}"


async def try_out(
    bench: Bench, model: str, folder: Path, profile: Profile, quiet: Quiet
) -> list[Case]:
    """Time batches of sizes that were and were not measured, alone and together."""
    triton = await bench.launcher.launch(model, "bench", folder, "profile")
    cases = []
    try:
        limit = triton.config.max_batch_size
        item = sample_item(triton.config, folder, np.random.default_rng(0))
        together = {profile.points[0][0], *(size for size, _ in profile.demand)}
        for running in range(1, LANES + 1):
            await triton.load(running)
            for batch in (size for size in BATCHES if size <= limit):
                request = make_request(model, triton.config, item, batch)
                call = partial(answer, triton.admin, request)
                samples, _ = await quiet.undisturbed(
                    partial(closed_loop, call, running, CASE_S, 4 * CASE_S)
                )
                slowed = profile.slowdown(running, profile.demand_fraction(batch))
                alone = running == 1 and batch in dict(profile.points)
                cases.append(
                    Case(
                        model,
                        batch,
                        running,
                        measured=alone or batch in together,
                        foretold_ms=profile.latency_s(batch) * float(slowed) * 1e3,
                        took_ms=middle_mean(samples) * 1e3,
                    )
                )
    finally:
        await triton.kill()
    return cases


def report(model: str, cases: Iterable[Case]) -> float:
    """Print the cases of a model; give the median error of those that were not measured."""
    print(f"{'batch':>6} {'lanes':>6} {'foretold ms':>12} {'took ms':>9} {'off':>6}")
    new = [case for case in cases if not case.measured]
    for case in new:
        print(
            f"{case.batch:>6} {case.lanes:>6} {case.foretold_ms:>12.2f} {case.took_ms:>9.2f} "
            f"{case.foretold_ms / case.took_ms - 1:>+6.0%}"
        )
    median = statistics.median(case.error for case in new)
    verdict = "within" if median <= WANTED else "NOT within"
    print(f"{model}: off by {median:.1%} in the median, {verdict} {WANTED:.0%}", flush=True)
    return median


async def run(models: list[str], rounds: int, patience_s: float) -> list[Case]:
    """Profile and try out each model, `rounds` times."""
    configure_logging("bench", "critical")
    home = Home(SCRATCH / "agent")
    cpu, accelerators, throttle = Cpu(), Gpus(home.mps), Throttle(1.0)
    finder = RuntimeFinder(None, home.backends)
    finder.look()
    site = Site(
        home,
        Ledger(home.runs),
        finder,
        throttle,
        accelerators,
        Memory(cpu.memory_bytes, cpu.memory_free_bytes),
        LogRelay(),
        host="127.0.0.1",
        load_limit_s=60.0,
        stall_s=60.0,
    )
    launcher = Launcher(site)
    await launcher.take_over()
    bench = Bench(launcher, cpu, accelerators, slowdown=1.0)
    print(f"{cpu.cores} cores, load {os.getloadavg()[0]:.1f} before it began")
    quiet = Quiet(Others().busy_s, patience_s=patience_s, insists=False, on_wait=lambda _: None)
    known = folders(SCRATCH / "silero_vad")
    cases: list[Case] = []
    try:
        for name in models or sorted(known):
            for _ in range(rounds):
                profile = await survey(bench, name, known[name], quiet)
                tried = await try_out(bench, name, known[name], profile, quiet)
                report(name, tried)
                cases += tried
    finally:
        home.close()
    return cases


def main() -> int:
    """Give 1 if a model is further off than wanted, 2 if the machine was never quiet."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.profiles")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is profiled")
    parser.add_argument(
        "--patience", type=float, default=600.0, metavar="S", help="longest wait for quiet"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all cases there")
    arguments = parser.parse_args()
    try:
        cases = asyncio.run(run(arguments.models, arguments.rounds, arguments.patience))
    except UnavailableError as error:
        print(f"{error}; end what else runs here, or give a longer --patience")
        return 2
    if arguments.json:
        arguments.json.write_text(json.dumps({"cases": [asdict(it) for it in cases]}, indent=1))
    errors = {
        name: statistics.median(it.error for it in cases if it.model == name and not it.measured)
        for name in dict.fromkeys(it.model for it in cases)
    }
    return int(max(errors.values()) > WANTED)


if __name__ == "__main__":
    sys.exit(main())
