"""Triton by itself, as a node agent starts it, but batching as the model's config says.

`python -m bench.plain_triton MODEL --data-dir FOLDER`: one model, in the same program with the
same flags as behind PALDIA, on the machine or on an emulated card. Dynamic batching, which agents
switch off, is as in `config.pbtxt`. The ready file says where it listens and which process it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from google.protobuf import text_format
from paldia_nodeagent.devices.base import Accelerators
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.devices.nvidia import Gpus
from paldia_nodeagent.emulator.emulation import Emulation
from paldia_nodeagent.home import Home
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.ledger import Ledger
from paldia_nodeagent.logs import LogRelay
from paldia_nodeagent.memory import Memory
from paldia_nodeagent.repository import CONFIG, override_json
from paldia_nodeagent.runtime import RuntimeFinder
from paldia_nodeagent.site import Site
from paldia_nodeagent.throttle import Throttle
from paldia_nodeagent.triton import TritonProcess
from tritonclient.grpc import model_config_pb2

from paldia.kit.lifecycle import announce_ready, run
from paldia.kit.observability import configure_logging

LOAD_LIMIT_S = 60.0
STALL_S = 60.0
_GRACE_S = 5.0


async def serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    """Serve the model until `stop`."""
    home = Home(options.data_dir)
    try:
        async with _running(options, home) as triton:
            facts = {"grpc": triton.record.endpoint, "pid": triton.record.pid}
            announce_ready(options.ready_file, facts)
            await stop.wait()
    finally:
        home.close()


@contextlib.asynccontextmanager
async def _running(options: argparse.Namespace, home: Home) -> AsyncIterator[TritonProcess]:
    cpu = Cpu()
    emulation = _emulation(options, home)
    accelerators: Accelerators = emulation.gpu if emulation else Gpus(home.mps)
    finder = RuntimeFinder(None, home.backends)
    finder.look()
    site = Site(
        home,
        Ledger(home.runs),
        finder,
        Throttle(1.0),
        accelerators,
        Memory(cpu.memory_bytes, cpu.memory_free_bytes),
        LogRelay(),
        host="127.0.0.1",
        load_limit_s=LOAD_LIMIT_S,
        stall_s=STALL_S,
        device=options.device,
        emulation=emulation,
    )
    artifact: Path = options.model.absolute()
    async with accelerators.running():
        triton = await Launcher(site).launch(
            artifact.name, "0" * 64, artifact, "serve", lanes=options.lanes
        )
        try:
            await _batch_as_told(triton, artifact)
            yield triton
        finally:
            await triton.end(grace_s=_GRACE_S)


def _emulation(options: argparse.Namespace, home: Home) -> Emulation | None:
    if options.device == "auto":
        return None
    kind = options.device.removeprefix("emulated:")
    return Emulation(kind, options.workloads, home, speed=1.0)


async def _batch_as_told(triton: TritonProcess, artifact: Path) -> None:
    """Give the model back the dynamic batching of its own configuration."""
    path = artifact / CONFIG
    own = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    if not own.HasField("dynamic_batching"):
        return
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(triton.config)
    config.dynamic_batching.CopyFrom(own.dynamic_batching)
    await triton.admin.load(triton.record.model, override_json(config), LOAD_LIMIT_S)


def main() -> int:
    """Run the program; give its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.plain_triton", description=__doc__)
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="auto or emulated:KIND")
    parser.add_argument("--workloads", type=Path, help="file of workloads to emulate")
    parser.add_argument("--lanes", type=int, default=1, help="instances of the model")
    parser.add_argument("--ready-file", type=Path)
    options = parser.parse_args()
    configure_logging("plain_triton", "warning", "json")
    return run(partial(serve, options))


if __name__ == "__main__":
    sys.exit(main())
