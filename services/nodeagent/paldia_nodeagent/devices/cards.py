"""The NVIDIA cards that this agent is to use, through failures of single ones.

No library is a machine without GPUs, and so is a driver that doesn't answer when the agent starts.
A card that falls off the bus is looked for again,
for which NVML has to be opened anew; the others go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import pynvml

from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent.devices import nvml
from paldia_nodeagent.devices.card import Card

T = TypeVar("T")

_LOOK_AGAIN_S = 30.0
_ANSWER_LIMIT_S = 30.0
"""A driver that isn't kept loaded may take seconds to start for each card."""


class Cards:
    """The cards there were when the agent started, and how each was last."""

    def __init__(
        self, look_again_s: float = _LOOK_AGAIN_S, answer_limit_s: float = _ANSWER_LIMIT_S
    ) -> None:
        """Ask NVML which there are.

        Args:
            look_again_s: how often lost ones are looked for.
            answer_limit_s: how long the driver may take to say which there are.
        """
        self.all: list[Card] = []
        self.loads: list[pb.GpuUtilisation] = []
        self._warnings: list[str] = []
        self._hangs = False
        try:
            self.all, self.loads, self._warnings = _within(answer_limit_s, _first_look)
        except UnavailableError as error:
            self._warnings = [str(error)]
        except TimeoutError:
            self._hangs = True
            self._warnings = [
                f"the NVIDIA driver hasn't said within {answer_limit_s:g} s which GPUs there are, "
                "so this node has none; see whether nvidia-smi answers, or reboot the machine, and "
                "start the agent again"
            ]
        self.sampled_s = time.monotonic()
        """When `loads` was true, on the monotonic clock."""
        self.losses = 0
        """How often a card was lost."""
        self._look_again_s = look_again_s
        self._looked_s = time.monotonic()

    def sample(self) -> None:
        """Ask each card how it is, and look for lost ones if that is due. It may take long."""
        loads = [card.sample() for card in self.all]
        for card, before, now in zip(self.all, self.loads, loads, strict=True):
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
        """Give back what is held of NVML; who asks a driver that hangs would hang too."""
        if self._hangs:
            return
        for card in self.all:
            card.close()
        nvml.close_session()


def _first_look() -> tuple[list[Card], list[pb.GpuUtilisation], list[str]]:
    """Give the cards, how each is, and what is wrong with others."""
    if not nvml.open_session():
        return [], [], []
    found, warnings = {}, []
    for index, handle in nvml.handles():
        uuid = None if isinstance(handle, str) else _uuid(handle)
        if uuid is None:
            said = handle if isinstance(handle, str) else "it doesn't tell its UUID"
            warnings.append(f"GPU {index} is left out, since it can't be used: {said}")
        else:
            found[index] = (uuid, handle)
    kept, said = nvml.visible({index: uuid for index, (uuid, _) in found.items()})
    warnings += [said] if said else []
    cards = [Card(index, uuid, found[index][1]) for index, uuid in sorted(kept.items())]
    return cards, [card.sample() for card in cards], warnings


def _within(limit_s: float, ask: Callable[[], T]) -> T:
    """Give what `ask` gives, in a thread that is left behind if it takes longer.

    Raises:
        TimeoutError: it did.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="nvml-first", daemon=True).start()
    return answer.result(limit_s)


def _uuid(handle: nvml.Handle) -> str | None:
    uuid: str | None = nvml.ask(pynvml.nvmlDeviceGetUUID, handle, quietly=True)
    return uuid
