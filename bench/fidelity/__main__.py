"""Run the comparison: `python -m bench.fidelity`, or some cases with `--only TEXT`.

The live cluster can't be hurried: each case takes as long as what it plays, and each model some
time to be measured. The report is written after each case.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from bench.fidelity.cases import PLAYED_S, Case, cases
from bench.fidelity.live import Live, measure, play
from bench.fidelity.played import Played, delta
from bench.fidelity.report import Sides, off, write
from bench.fidelity.simulated import simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Play each case on both sides and write the report; 130 after Ctrl-C."""
    options = _options().parse_args(arguments)
    wanted = [case for case in cases() if options.only in case.name]
    if not wanted:
        names = ", ".join(case.name for case in cases())
        print(f"no case has {options.only!r} in its name; there are {names}", file=sys.stderr)
        return 2
    # Ended that way, too, it stops all that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    rows: list[dict[str, Any]] = []
    sides: list[Sides] = []
    try:
        for (model, _), group in groupby(wanted, lambda case: (case.model, case.nodes)):
            with (
                console.status(model) as status,
                tempfile.TemporaryDirectory(prefix="paldia-fidelity-") as parent,
            ):
                measured = Path(parent) / "measured"
                together = [*group]
                ways = measure(together[0], measured, partial(_tell, status, together[0]))
                for case in together:
                    tell = partial(_tell, status, case)
                    live = play(case, measured, ways, options.seconds, tell)
                    tell("simulating")
                    sim = simulate(case, live.times, options.seconds, live.found)
                    rows.append(_row(case, live, sim))
                    sides.append((case, live.played, sim))
                    write(options.out, rows, sides)
                    console.print(
                        f"{case.name}: {', '.join(off(rows[-1]['delta'])) or 'as wanted'}"
                    )
    except KeyboardInterrupt:
        return 130
    console.print((options.out / "report.md").read_text(), soft_wrap=True)
    return 0


def _tell(status: Status, case: Case, what: str) -> None:
    status.update(f"{case.name}: {what}")


def _row(case: Case, live: Live, sim: Played) -> dict[str, Any]:
    seen, said = live.played.figures(case.slo_s), sim.figures(case.slo_s)
    return {
        "name": case.name,
        "model": case.model,
        "trace": case.trace,
        "policy": case.policy,
        "nodes": [f"{node_id}: {kind.name}" for node_id, kind in live.found.nodes.items()],
        "slo_ms": case.slo_s * 1e3,
        "lane_way_ms": live.found.ways.lane_s * 1e3,
        "caller_way_ms": live.found.ways.caller_s * 1e3,
        "live": seen,
        "sim": said,
        "delta": delta(seen, said),
    }


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fidelity",
        description="Play the same requests through a live cluster and through the simulator.",
        epilog="example: python -m bench.fidelity --only magika --seconds 60",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    parser.add_argument(
        "--seconds", type=float, default=PLAYED_S, metavar="N", help="time that is compared"
    )
    parser.add_argument("--out", type=Path, default=Path("out/fidelity"), help="folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
