"""The NVIDIA cards that this agent is to use, through failures of single ones.

No library is a machine without GPUs. A card that falls off the bus is looked for again,
for which NVML has to be opened anew; the others go on.
"""

from __future__ import annotations

import time

import pynvml

from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent.devices import nvml
from paldia_nodeagent.devices.card import Card

_LOOK_AGAIN_S = 30.0


class Cards:
    """The cards there were when the agent started, and how each was last."""

    def __init__(self, look_again_s: float = _LOOK_AGAIN_S) -> None:
        """Ask NVML which there are; lost ones are looked for every `look_again_s` seconds."""
        self.all: list[Card] = []
        self.loads: list[pb.GpuUtilisation] = []
        self.sampled_s = time.monotonic()
        """When `loads` was true, on the monotonic clock."""
        self.losses = 0
        """How often a card was lost."""
        self._look_again_s = look_again_s
        self._looked_s = time.monotonic()
        self._warnings: list[str] = []
        try:
            if nvml.open_session():
                self._find()
        except UnavailableError as error:
            self._warnings.append(str(error))
        self.sample()

    def _find(self) -> None:
        found = {}
        for index, handle in nvml.handles():
            uuid = None if isinstance(handle, str) else _uuid(handle)
            if uuid is None:
                said = handle if isinstance(handle, str) else "it doesn't tell its UUID"
                self._warnings.append(f"GPU {index} is left out, since it can't be used: {said}")
            else:
                found[index] = (uuid, handle)
        kept, said = nvml.visible({index: uuid for index, (uuid, _) in found.items()})
        self._warnings += [said] if said else []
        self.all = [Card(index, uuid, found[index][1]) for index, uuid in sorted(kept.items())]

    def sample(self) -> None:
        """Ask each card how it is, and look for lost ones if that is due. It may take long."""
        loads = [card.sample() for card in self.all]
        for card, before, now in zip(self.all, self.loads or loads, loads, strict=True):
            if bool(before.lost) != bool(now.lost):
                self.losses += bool(now.lost)
                logger().warning(
                    "gpu.lost" if now.lost else "gpu.back", gpu=card.label, why=now.lost
                )
        self.loads, self.sampled_s = loads, time.monotonic()
        lost = any(load.lost for load in loads)
        if lost and time.monotonic() - self._looked_s >= self._look_again_s:
            self._reopen()
            self._looked_s = time.monotonic()

    def _reopen(self) -> None:
        self.close()
        try:
            nvml.open_session()
        except UnavailableError as error:
            logger().error("nvml.closed", why=str(error))
            return
        handles = {
            _uuid(handle): handle for _, handle in nvml.handles() if not isinstance(handle, str)
        }
        for card in self.all:
            if card.uuid in handles:
                card.reopen(handles[card.uuid])

    def lost(self) -> dict[str, str]:
        """Give why each lost card doesn't answer, by UUID."""
        return {load.uuid: load.lost for load in self.loads if load.lost}

    def warnings(self) -> list[str]:
        """Say what is wrong with the driver and the cards."""
        lost = self.lost()
        return [
            *self._warnings,
            *(
                f"{card.label} doesn't answer: {lost[card.uuid]}; the kernel's log says more; "
                "reset it with nvidia-smi, or reboot the machine"
                for card in self.all
                if card.uuid in lost
            ),
        ]

    def close(self) -> None:
        """Give back what is held of NVML."""
        for card in self.all:
            card.close()
        nvml.close_session()


def _uuid(handle: nvml.Handle) -> str | None:
    uuid: str | None = nvml.ask(pynvml.nvmlDeviceGetUUID, handle, quietly=True)
    return uuid
