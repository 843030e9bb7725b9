"""`python -m bench.planner`: how fast the planner is, and what its placements cost.

Writes report.json, report.md and curve.png. HiGHS's answers are kept, so that a run that was
broken off goes on where it was.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.planner import placement, report, speed
from paldia.cli.progress import progress

SIZES = (10, 30, 100, 300, 1000, 3000)
INSTANCES, QUICK_INSTANCES = 20, 4
LIMIT_S, QUICK_LIMIT_S = 60.0, 15.0


def main() -> None:
    """Measure, and write what came out."""
    wanted = _arguments()
    console = Console()
    speeds: list[speed.Speed] = []
    if not wanted.only_placement:
        with progress(console, "Speed") as update:
            for number, size in enumerate(wanted.sizes):
                say = partial(update, f"{size} nodes, {size} models")
                speeds.append(
                    speed.measure(size, partial(say, fraction=number / len(wanted.sizes)))
                )
        console.print(report.speed_table(speeds), markup=False, soft_wrap=True)
    outcomes: list[placement.Outcome] = []
    if not wanted.only_speed:
        with progress(console, "Placement") as update:
            for number, instance in enumerate(placement.instances(wanted.instances)):
                update(
                    f"instance {number + 1} of {wanted.instances}",
                    f"HiGHS has {wanted.limit_s:g} s",
                    number / wanted.instances,
                )
                outcomes.append(placement.compare(instance, wanted.limit_s, wanted.out / "highs"))
        console.print(report.placement_table(outcomes), markup=False, soft_wrap=True)
    written = report.write(wanted.out, speeds, outcomes, wanted.limit_s)
    console.print("Written: " + ", ".join(map(str, written)), markup=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.planner", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/planner"), help="folder to write to")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_INSTANCES} instances of {QUICK_LIMIT_S:g} s, sizes up to 1000",
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="nodes and models of each size")
    parser.add_argument("--instances", type=int, help="instances to place")
    parser.add_argument("--limit-s", type=float, help="seconds HiGHS has for each of them")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-speed", action="store_true")
    only.add_argument("--only-placement", action="store_true")
    wanted = parser.parse_args()
    if wanted.sizes is None:
        wanted.sizes = [size for size in SIZES if size <= 1000 or not wanted.quick]
    if wanted.instances is None:
        wanted.instances = QUICK_INSTANCES if wanted.quick else INSTANCES
    if wanted.limit_s is None:
        wanted.limit_s = QUICK_LIMIT_S if wanted.quick else LIMIT_S
    if min(wanted.sizes) < 1 or wanted.instances < 1 or wanted.limit_s <= 0:
        parser.error("sizes, instances and the limit must be above 0")
    return wanted


if __name__ == "__main__":
    main()
