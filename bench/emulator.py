"""How true an emulated accelerator is: what batches take through real Triton, against the model.

`python -m bench.emulator [KIND [WORKLOAD]]`: batches of 1 and 8 in 1, 2, 4 and 8 lanes that are
kept busy, the median of each against L(b) S(k). Wanted: within 5 % or 2 ms, on an idle machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.emulator.emulation import Emulation
from paldia_nodeagent.emulator.figures import Figures
from paldia_nodeagent.home import Home
from paldia_nodeagent.inputs import make_request, sample_item
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.ledger import Ledger
from paldia_nodeagent.logs import LogRelay
from paldia_nodeagent.measure import answer
from paldia_nodeagent.memory import Memory
from paldia_nodeagent.runtime import RuntimeFinder
from paldia_nodeagent.site import Site
from paldia_nodeagent.throttle import Throttle
from paldia_nodeagent.triton import TritonProcess

from paldia.kit.observability import configure_logging

LANES = (1, 2, 4, 8)
BATCHES = (1, 8)
ROUNDS = 25
_CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{{ name: "ids" data_type: TYPE_INT64 dims: [128] }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [2] }}]
parameters {{ key: "paldia_workload" value {{ string_value: "{workload}" }} }}
"""


async def batch_s(triton: TritonProcess, artifact: Path, lanes: int, batch: int) -> float:
    """Give the median seconds of a batch in lanes that are kept busy."""
    item = sample_item(triton.config, artifact, np.random.default_rng(0))
    request = make_request(triton.record.model, triton.config, item, batch)

    async def lane() -> list[float]:
        return [await answer(triton.admin, request) for _ in range(ROUNDS)]

    samples = await asyncio.gather(*(lane() for _ in range(lanes)))
    return statistics.median(it for some in samples for it in some)


async def bench(kind: str, workload: str, folder: Path) -> None:
    artifact = folder / "model"
    artifact.mkdir()
    (artifact / "config.pbtxt").write_text(_CONFIG.format(workload=workload))
    configure_logging("bench", "critical")
    home = Home(folder / "home")
    finder = RuntimeFinder(None, home.backends)
    finder.look()
    cpu, emulation = Cpu(), Emulation(kind, None, home, speed=1.0)
    site = Site(
        home,
        Ledger(home.runs),
        finder,
        Throttle(1.0),
        emulation.gpu,
        Memory(cpu.memory_bytes, cpu.memory_free_bytes),
        LogRelay(),
        host="127.0.0.1",
        load_limit_s=60.0,
        stall_s=60.0,
        device=f"emulated:{kind}",
        emulation=emulation,
    )
    async with emulation.gpu.running():
        triton = await Launcher(site).launch("m", "0" * 64, artifact, "serve", lanes=max(LANES))
        try:
            profile = Figures(kind, None).profile("m", triton.config)
            print(f"{workload} on {kind}, load average {os.getloadavg()[0]:.1f}")
            print("| batch | lanes | model ms | measured ms | off by |")
            print("| ----: | ----: | -------: | ----------: | -----: |")
            for batch in BATCHES:
                for lanes in LANES:
                    took_s = await batch_s(triton, artifact, lanes, batch)
                    slowdown = float(profile.slowdown(lanes, profile.demand_fraction(batch)))
                    want_s = profile.latency_s(batch) * slowdown
                    print(
                        f"| {batch} | {lanes} | {want_s * 1e3:.2f} | {took_s * 1e3:.2f} | "
                        f"{took_s / want_s - 1:+.1%}, {(took_s - want_s) * 1e3:+.2f} ms |"
                    )
        finally:
            await triton.kill()
    home.close()


def main() -> None:
    kind, workload, *_ = [*sys.argv[1:], *("p3.2xlarge", "bert")[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(bench(kind, workload, Path(folder)))


if __name__ == "__main__":
    main()
