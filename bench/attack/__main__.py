"""Attack a frontend in every way there is, and say how others fared meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from bench.attack.attacks import ATTACKS
from bench.attack.callers import call_steadily
from bench.attack.report import Row, write
from bench.attack.stage import Memory, Stage, stage

LEAD_S = 1.0
"""From an attack's start until others are looked at: by then it does what it does."""
SETTLE_S = 3.0
KILL_S = 10.0


def run(name: str, frontend: Stage, seconds: float) -> Row:
    """Attack in one way, after as long a quiet time."""
    quiet = asyncio.run(call_steadily(frontend.address, seconds))
    before, logged = frontend.workers(), frontend.log.stat().st_size
    with Memory(frontend) as memory:
        before_bytes = memory.now_bytes()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.attack.attacks"),
                *(name, frontend.address, str(LEAD_S + seconds + 1)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        time.sleep(LEAD_S)
        served = asyncio.run(call_steadily(frontend.address, seconds))
        try:
            said, _ = process.communicate(timeout=KILL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        time.sleep(SETTLE_S)
        after_bytes = memory.now_bytes()
    alive = frontend.workers() if frontend.process.is_running() else set()
    quiet_p99_ms, p99_ms = quiet.percentile_ms(0.99), served.percentile_ms(0.99)
    return Row(
        attack=name,
        outcomes=json.loads(said or "{}"),
        errors=served.errors,
        p50_ms=served.percentile_ms(0.5),
        p99_ms=p99_ms,
        quiet_p99_ms=quiet_p99_ms,
        p99_ratio=p99_ms / quiet_p99_ms,
        before_mib=before_bytes / (1 << 20),
        peak_mib=memory.peak_bytes / (1 << 20),
        after_mib=after_bytes / (1 << 20),
        log_kib=(frontend.log.stat().st_size - logged) / 1024,
        died=len(before - alive),
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each attack")
    parser.add_argument("--out", type=Path, default=Path("out/attack"))
    parser.add_argument("--only", help="attacks, with commas between them")
    parser.add_argument("flags", nargs="*", help="for the frontend, after --")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(ATTACKS)
    rows: list[Row] = []
    with stage(*options.flags) as frontend:
        for name in names:
            rows.append(run(name, frontend, options.seconds))
            facts = {"seconds": options.seconds, "flags": options.flags}
            text = write(rows, facts, options.out)
            print(f"{name}: p99 {rows[-1].p99_ms:.1f} ms, {rows[-1].peak_mib:.0f} MiB", flush=True)
    print(text)


if __name__ == "__main__":
    main()
