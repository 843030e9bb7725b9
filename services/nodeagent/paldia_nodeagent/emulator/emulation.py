"""What an emulated node does otherwise: its card, its models' folders, and their times."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path

import numpy as np

from paldia.api import machines
from paldia.api.v1 import types_pb2 as pb
from paldia.kit.files import replace_text
from paldia_nodeagent.admin import TritonAdmin
from paldia_nodeagent.devices.emulated import EmulatedGpu
from paldia_nodeagent.emulator import folder, wire
from paldia_nodeagent.emulator.figures import Figures, machine_of
from paldia_nodeagent.home import Home
from paldia_nodeagent.inputs import make_request, sample_item
from paldia_nodeagent.measure import answer
from paldia_nodeagent.repository import ModelConfig, with_lanes

CALIBRATING_S = 0.005
"""What a batch takes in `model.py` until it is calibrated."""
_OVERHEAD = "overhead.json"
_WARM_UPS = 3
_SAMPLES = 16
_LARGER_BATCH = 8


class Emulation:
    """An emulated accelerator, and what its node needs to serve models on it."""

    def __init__(self, kind: str, workloads: Path | None, home: Home, *, speed: float) -> None:
        """Emulate the catalog's machine `kind`, at `speed` of its own.

        Args:
            workloads: a file of further workloads.
            home: the agent's; its token names the emulator.

        Raises:
            InvalidArgumentError: there is no such machine, or the file is wrong; says where.
        """
        self._machine = machine_of(kind)
        self._figures = Figures(kind, workloads)
        self.socket = f"paldia-{home.token}-emulator"
        self.gpu = EmulatedGpu(
            self._machine, name=self.socket, log=home.folder / "emulator.log", speed=speed
        )

    def hardware(self) -> pb.Hardware:
        """Describe the node's hardware as the catalog has it, but that it is there already."""
        told = machines.hardware_to_proto(self._machine.hardware)
        del told.gpus[:]
        told.gpus.extend(self.gpu.describe())
        told.emulated = True
        told.ClearField("activation")
        return told

    def build_repository(self, artifact: Path, repository: Path, name: str, lanes: int) -> None:
        """Make a repository folder with a stand-in for the artifact under the name `name`.

        Raises:
            NotServableError: it can't be emulated; says what to do.
        """
        config = with_lanes(folder.read_config(artifact), lanes)
        told = {
            "socket": self.socket,
            "profile": wire.profile_to_json(self._figures.profile(name, config)),
            "calibrating_s": CALIBRATING_S,
            "overhead_file": str(_overhead_file(repository)),
        }
        folder.build(artifact, repository, name, config, told)

    async def settle_in(
        self,
        admin: TritonAdmin,
        config: ModelConfig,
        artifact: Path,
        repository: Path,
        began_s: float,
    ) -> None:
        """Let a loaded model take its real times: batches from now on, and loading itself.

        What Triton takes for a batch is measured and told to the model. Then it is waited for
        until loading has taken as long since `began_s`, by the monotonic clock, as it should.

        Raises:
            NotServableError: the model doesn't answer.
        """
        item = sample_item(config, artifact, np.random.default_rng(0))

        async def overhead_s(batch: int) -> float:
            request = make_request(config.name, config, item, batch)
            samples = [await answer(admin, request) for _ in range(_WARM_UPS + _SAMPLES)]
            return max(0.0, statistics.median(samples[_WARM_UPS:]) - CALIBRATING_S)

        single_s, row_s = await overhead_s(1), 0.0
        larger = min(_LARGER_BATCH, config.max_batch_size)
        if larger > 1:
            row_s = max(0.0, (await overhead_s(larger) - single_s) / (larger - 1))
        figures = {"fixed_s": max(0.0, single_s - row_s), "row_s": row_s}
        replace_text(_overhead_file(repository), json.dumps(figures))
        load_s = self._figures.profile(config.name, config).load_s
        await asyncio.sleep(max(0.0, began_s + load_s - time.monotonic()))


def _overhead_file(repository: Path) -> Path:
    # Outside of the model's folder, where a change would make Triton load it anew.
    return repository.with_name(_OVERHEAD)
