"""Run it: `python -m bench.overload`. It takes 15 minutes, and little of the machine.

An emulated card with a model that it serves some 60 times a second, whatever the machine; first
behind PALDIA, which refuses what would be late, then behind Triton alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import sending
from bench.dataplane.contenders import plain_triton
from bench.dataplane.workloads import CARD, Workload
from bench.overload.cells import Sent, Shape, arrivals, cell, median_s
from bench.overload.report import write
from bench.stage import Stage, staged
from paldia.cli.node_options import emulated_node
from paldia.core.errors import UnavailableError
from paldia.core.types import OverloadPolicy
from paldia.load.outcomes import ANSWERED, REFUSED
from paldia.load.replay import replay

LOAD_S, TAIL_S = 60.0, 15.0
OFFERED = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Half first: what is normal is seen there."""
SLO_S = 0.2
DEADLINE_S = 10.0
UNDER_WAY = 100_000
CALLERS, CLOSED_S = 8, 15.0
METERED = Workload(
    "1 KB",
    *("metered", CARD, SLO_S, 1, (CALLERS,), 4, "FP32", (256,), (10,)),
    emulates="metered",
)
_WORKLOADS = """# A batch of 4 takes 66.7 ms and all of the card: 60 requests a second.
workloads:
  metered:
    profiles:
      p3.2xlarge:
        latency_ms: {1: 20, 2: 36, 4: 66.7}
        demand: {1: 1.0}
        memory_mib: 500
        load_s: 1
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Load PALDIA and Triton and write the report; 130 after Ctrl-C."""
    options = _options().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shape, console = Shape(options.seconds, TAIL_S), Console()
    try:
        with tempfile.TemporaryDirectory(prefix="paldia-overload-") as folder:
            _measure(Path(folder), shape, options.out, console)
    except KeyboardInterrupt:
        return 130
    console.print((options.out / "report.md").read_text(), soft_wrap=True, markup=False)
    return 0


def _measure(folder: Path, shape: Shape, out: Path, console: Console) -> None:
    cells: list[dict[str, Any]] = []
    file = folder / "workloads.yaml"
    file.write_text(_WORKLOADS)
    facts: dict[str, Any] = {"slo_s": SLO_S, "deadline_s": DEADLINE_S}
    facts |= {"load_s": shape.load_s, "tail_s": shape.tail_s}

    def add(system: str, offered: float, sent: Sent, normal_s: float) -> None:
        capacity_rps = facts["capacity_rps"]
        told = {"shape": shape, "capacity_rps": capacity_rps, "slo_s": SLO_S}
        cells.append(cell(system, offered, sent, normal_s=normal_s, **told))
        write(out, cells, facts)
        console.print(f"{system}, {offered:g} times: {cells[-1]['goodput_over_capacity']:.2f}")

    with _paldia(folder, file) as stage:
        facts["closed_rps"], facts["capacity_rps"] = _capacity(stage, folder)
        console.print(
            f"capacity {facts['capacity_rps']:.1f}/s by plan, {facts['closed_rps']:.1f}/s as seen"
        )
        normal_s = np.inf
        for offered in OFFERED:
            with console.status(f"PALDIA, {offered:g} times"):
                sent = _send(stage.frontend, facts["capacity_rps"], offered, shape)
            normal_s = min(normal_s, median_s(sent))
            add("PALDIA", offered, sent, normal_s)
    normal_s = np.inf
    for offered in OFFERED:
        # A new one each time: what the last one left in its queue is no part of this.
        with (
            console.status(f"Triton, {offered:g} times"),
            plain_triton(
                METERED.write(folder),
                folder / f"triton-{offered:g}",
                lanes=METERED.lanes,
                device=METERED.device,
                workloads=file,
            ) as (address, _),
        ):
            sent = _send(address, facts["capacity_rps"], offered, shape)
        normal_s = min(normal_s, median_s(sent))
        add("Triton directly", offered, sent, normal_s)


@contextmanager
def _paldia(folder: Path, workloads: Path) -> Iterator[Stage]:
    node = emulated_node("card", METERED.device.partition(":")[2])
    workers = str(len(os.sched_getaffinity(0)))
    with staged(
        folder / "cluster",
        (node,),
        frontend=("--workers", workers),
        agents=("--workloads", str(workloads)),
    ) as stage:
        stage.client.deploy(
            METERED.write(folder), slo_latency_s=SLO_S, on_overload=OverloadPolicy.SHED
        )
        yield stage


def _capacity(stage: Stage, folder: Path) -> tuple[float, float]:
    """Give the requests a second answered to callers in a closed loop, and the plan's then.

    Raises:
        UnavailableError: there is no plan.
    """
    requests = METERED.write_requests(folder / "requests.json", 4)
    target = sending.Target(stage.frontend, METERED.model, requests, folder / "load")
    seen = sending.closed(target, CALLERS, CLOSED_S)
    current = stage.client.explain(METERED.model, limit=1).current
    chosen = None if current is None else current.chosen
    if current is None or chosen is None:
        raise UnavailableError(f"{METERED.model} has no plan; see the logs in {folder}")
    return seen["answered_rps"], current.candidates[chosen].throughput_per_second


def _send(address: str, capacity_rps: float, offered: float, shape: Shape) -> Sent:
    times = arrivals(capacity_rps, offered, shape, seed=int(10 * offered))
    outcomes = asyncio.run(
        replay(
            address,
            METERED.encoded(4),
            times.tolist(),
            deadline_s=DEADLINE_S,
            in_flight_limit=UNDER_WAY,
        )
    )
    return Sent(
        times,
        np.array([it.latency_s for it in outcomes]),
        np.array([it.code == ANSWERED for it in outcomes]),
        np.array([it.code == REFUSED for it in outcomes]),
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overload",
        description="Send more than can be served, to PALDIA and to Triton alone.",
    )
    parser.add_argument(
        "--seconds", type=float, default=LOAD_S, metavar="N", help="length of each load"
    )
    parser.add_argument("--out", type=Path, default=Path("out/overload"), help="folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
