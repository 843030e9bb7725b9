"""What a node needs to emulate the models it is given: their folders, and honest times."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np

from paldia.kit.files import replace_text
from paldia_nodeagent.admin import TritonAdmin
from paldia_nodeagent.emulator import folder, wire
from paldia_nodeagent.emulator.figures import Figures
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
    """Makes and calibrates emulated models on one node."""

    def __init__(self, figures: Figures, socket: str) -> None:
        """Take figures from `figures`; the emulator's socket has the name `socket`."""
        self._figures = figures
        self._socket = socket

    def build_repository(self, artifact: Path, repository: Path, name: str, lanes: int) -> None:
        """Make a repository folder with a stand-in for the artifact under the name `name`.

        Raises:
            NotServableError: it can't be emulated; says what to do.
        """
        config = with_lanes(folder.read_config(artifact), lanes)
        told = {
            "socket": self._socket,
            "profile": wire.profile_to_json(self._figures.profile(name, config)),
            "overhead_file": str(_overhead_file(repository)),
        }
        folder.build(artifact, repository, name, config, told)

    async def calibrate(
        self, admin: TritonAdmin, config: ModelConfig, artifact: Path, repository: Path
    ) -> None:
        """Measure what Triton takes for a batch, and tell the model; batches count from then on.

        Raises:
            NotServableError: the model doesn't answer.
        """
        item = sample_item(config, artifact, np.random.default_rng(0))
        larger = max(1, min(_LARGER_BATCH, config.max_batch_size))

        async def overhead_s(batch: int) -> float:
            request = make_request(config.name, config, item, batch)
            samples = [await answer(admin, request) for _ in range(_WARM_UPS + _SAMPLES)]
            # The lower quartile: other work on the machine isn't Triton's.
            quartile_s = statistics.quantiles(samples[_WARM_UPS:], n=4)[0]
            return max(0.0, quartile_s - CALIBRATING_S)

        single_s = await overhead_s(1)
        row_s = 0.0
        if larger > 1:
            row_s = max(0.0, (await overhead_s(larger) - single_s) / (larger - 1))
        figures = {"fixed_s": max(0.0, single_s - row_s), "row_s": row_s}
        replace_text(_overhead_file(repository), json.dumps(figures))


def _overhead_file(repository: Path) -> Path:
    # Outside of the model's folder, where a change would make Triton load it anew.
    return repository.with_name(_OVERHEAD)
