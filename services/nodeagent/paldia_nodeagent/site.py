"""Where the Tritons of a node run: what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paldia_nodeagent.devices.base import Accelerators
from paldia_nodeagent.emulator.emulation import Emulation
from paldia_nodeagent.home import Home
from paldia_nodeagent.ledger import Ledger
from paldia_nodeagent.logs import LogRelay
from paldia_nodeagent.memory import Memory
from paldia_nodeagent.runtime import RuntimeFinder
from paldia_nodeagent.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Site:
    """What the Tritons on a node have in common.

    They listen on `host`. A model may take `load_limit_s` seconds to load, and show no life
    for `stall_s` seconds. They run on `device`, by `emulation` where it isn't real.
    """

    home: Home
    ledger: Ledger
    finder: RuntimeFinder
    throttle: Throttle
    accelerators: Accelerators
    memory: Memory
    logs: LogRelay
    host: str
    load_limit_s: float
    stall_s: float
    device: str = "auto"
    emulation: Emulation | None = None

    def prefix(self, run: str) -> str:
        """Give the name that marks a run's processes and shared memory, unique on the machine."""
        return f"paldia-{self.home.token}-{run}"

    def repository(self, run: str) -> Path:
        """Give the folder of a run's model repository."""
        return self.ledger.folder(run) / "repository"
