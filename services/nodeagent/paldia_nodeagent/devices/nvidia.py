"""The NVIDIA GPUs of this machine: reported each second, and shared under MPS where it can be.

Drivers and daemons may hang, so all that asks them runs in threads of their own, and the
agent reads what was seen last.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import NotServableError
from paldia.kit.observability import logger
from paldia_nodeagent import processes
from paldia_nodeagent.devices.card import Card
from paldia_nodeagent.devices.cards import Cards
from paldia_nodeagent.devices.exclusive import ExclusiveMode
from paldia_nodeagent.devices.mps import PROGRAM, Mps

_EVERY_S = 1.0
_SILENCE_MOST_S = 5.0
_JOIN_LIMIT_S = 20.0
_MPS_FROM = (3, 5)
_SHARES_FROM = (7, 0)


class Gpus:
    """The GPUs that this agent is to use; satisfies `Accelerators`."""

    def __init__(
        self, folder: Path, cards: Cards | None = None, *, memory_share: float = 1.0
    ) -> None:
        """See which there are.

        Args:
            folder: for MPS alone.
            cards: what NVML knows; asked if it isn't given.
            memory_share: part of a card's memory that one process may take, as MPS sees to it.
        """
        self._cards = cards or Cards()
        self._mps: Mps | None = None
        self._obstacle = _obstacle(self._cards.all)
        self._shared = ""
        self._losses = self._cards.losses
        self._threads = [_Periodic("nvml", self._cards.sample)] if self._cards.all else []
        if self._cards.all and not self._obstacle:
            (card,) = self._cards.all
            limit_bytes = int(memory_share * card.description.memory_bytes)
            mps = self._mps = Mps(
                shutil.which(PROGRAM) or PROGRAM,
                folder,
                card.uuid,
                memory_limit_bytes=limit_bytes if memory_share < 1 else 0,
            )
            self._exclusive = ExclusiveMode(card, folder / "compute_mode")
            self._threads.append(_Periodic("mps", lambda: self._look_after(mps)))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the GPUs and MPS until nothing uses them any more."""
        await asyncio.to_thread(self.start)
        try:
            yield
        finally:
            await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Start or adopt MPS, and begin to look after it all; takes seconds at worst."""
        if self._mps is not None:
            self._shared = self._exclusive.take()
            self._mps.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End MPS, put the compute mode back and let the driver go. Nothing may use the GPUs."""
        hung = [thread.name for thread in self._threads if not thread.stop()]
        if self._mps is not None:
            self._mps.stop()
        if hung:
            # Whoever asks a driver that hangs hangs too.
            logger().error("gpu.left_as_it_is", hung=hung)
            return
        if self._mps is not None:
            self._exclusive.give_back()
        self._cards.close()

    def _look_after(self, mps: Mps) -> None:
        if self._cards.lost():
            return
        if self._losses != self._cards.losses:
            self._losses = self._cards.losses
            mps.replace("the GPU was lost for a while")
        elif not mps.gave_up:
            mps.look_after()
            if mps.gave_up:
                # Without MPS each process needs a context of its own.
                self._exclusive.give_back()

    def describe(self) -> list[pb.Gpu]:
        """Describe each card."""
        return [card.description for card in self._cards.all]

    def utilisation(self) -> list[pb.GpuUtilisation]:
        """Say how each card was last; figures that it doesn't tell are left out."""
        if self._silence_s() > _SILENCE_MOST_S:
            return [pb.GpuUtilisation(uuid=card.uuid) for card in self._cards.all]
        return self._cards.loads

    def memory_used_bytes(self, pid: int) -> int | None:
        """Give the memory on the cards of a process and all below it; None if that is unknown."""
        family = processes.family(pid) if self._cards.all else frozenset()
        held = [
            process.memory_bytes
            for load in self.utilisation()
            for process in load.processes.processes
            if process.pid in family and process.HasField("memory_bytes")
        ]
        return sum(held) if held else None

    def _silence_s(self) -> float:
        return time.monotonic() - self._cards.sampled_s

    @property
    def problem(self) -> str:
        """Why no model can run on the GPUs; empty if one can, or there are none."""
        lost = self._cards.lost()
        if not lost or len(lost) < len(self._cards.all):
            return ""
        return "no GPU of this node answers: " + "; ".join(sorted({*lost.values()}))

    @property
    def sm_shares(self) -> bool:
        """Whether a process can be held to a share of the streaming multiprocessors."""
        if self._mps is None or self._mps.gave_up:
            return False
        return _known(self._cards.all[0]) >= _SHARES_FROM

    def warnings(self) -> list[str]:
        """Say what is wrong with the cards, and why they aren't shared under MPS if they aren't."""
        said = self._cards.warnings()
        if self._cards.all and self._silence_s() > _SILENCE_MOST_S:
            said.append(f"the NVIDIA driver hasn't answered for {self._silence_s():.0f} s")
        if self._obstacle:
            said.append(f"models share the GPU in time, without NVIDIA MPS: {self._obstacle}")
        if self._mps is None:
            return said
        card = self._cards.all[0]
        if self._mps.gave_up:
            said.append(
                f"models share {card.label} in time: NVIDIA MPS was started anew too often, the "
                f"last time because {self._mps.trouble}; see to it and start the agent again"
            )
        elif self._mps.trouble:
            said.append(f"NVIDIA MPS on {card.label} is being started anew: {self._mps.trouble}")
        elif _known(card) < _SHARES_FROM:
            said.append(
                f"{card.label} can't hold a process to a share of its multiprocessors: it is older "
                f"than Volta (compute capability {card.description.compute_capability})"
            )
        if self._shared and not self._mps.gave_up:
            said.append(f"{card.label} is open to other processes beside MPS: {self._shared}")
        return said

    def environment(self, sm_percent: int) -> Mapping[str, str]:
        """Give what a Triton gets to use the GPUs, held to `sm_percent` of the SMs.

        Raises:
            NotServableError: no GPU answers; the model would run without one otherwise.
            UnavailableError: MPS is being started anew.
        """
        if not self._cards.all:
            return {}
        if self.problem:
            raise NotServableError(self.problem)
        if self._mps is None or self._mps.gave_up:
            lost = self._cards.lost()
            answering = [card.uuid for card in self._cards.all if card.uuid not in lost]
            return {"CUDA_VISIBLE_DEVICES": ",".join(answering)}
        return self._mps.environment(sm_percent if self.sm_shares else 100)


def _known(card: Card) -> tuple[int, int]:
    return card.capability or (0, 0)


def _obstacle(cards: list[Card]) -> str:
    """Say why MPS can't be had for these cards, if there are any, and what would help."""
    if not cards:
        return ""
    if len(cards) > 1:
        return (
            f"a process can attach to MPS on one GPU, and this agent has {len(cards)}; run an "
            "agent for each, with CUDA_VISIBLE_DEVICES set to the GPU's UUID"
        )
    (card,) = cards
    if card.capability is None:
        return f"{card.label} doesn't tell its compute capability"
    if card.capability < _MPS_FROM:
        capability = card.description.compute_capability
        return f"{card.label} is too old for it: compute capability {capability}"
    if card.description.mig:
        return f"{card.label} is split into instances; switch MIG mode off"
    if shutil.which(PROGRAM) is None:
        return f"{PROGRAM} isn't on PATH; it comes with the driver's compute utilities"
    return ""


class _Periodic:
    """Does something each second in a thread that ends with the process at the latest."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.name = name
        self._act = act
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """Let it end; False if it hangs, and is left behind."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_LIMIT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._end.wait(_EVERY_S):
            try:
                self._act()
            except Exception as error:
                # Whatever it is, the next look must not be missed.
                logger().error("gpu.watch_failed", watch=self.name, exc_info=error)
