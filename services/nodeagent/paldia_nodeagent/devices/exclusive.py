"""Holds a card in exclusive-process mode, so that nothing computes on it beside MPS.

What the mode was is on disk while it is held: an agent that is killed leaves it to the
next one to put back.
"""

from __future__ import annotations

from pathlib import Path

import pynvml

from paldia.kit.files import replace_text
from paldia.kit.observability import logger
from paldia_nodeagent.devices.card import Card

_EXCLUSIVE = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS


class ExclusiveMode:
    """The compute mode of one card."""

    def __init__(self, card: Card, path: Path) -> None:
        """Keep what the mode was in the file `path` while it is changed."""
        self._card = card
        self._path = path

    def take(self) -> str:
        """Set the mode, if nothing computes on the card yet; give why not, empty if it is set."""
        mode = self._card.compute_mode()
        if mode == _EXCLUSIVE:
            return ""
        if mode is None:
            return "its compute mode is unknown"
        load = self._card.sample()
        if not load.HasField("processes"):
            return "it doesn't tell which processes use it"
        if load.processes.processes:
            pids = ", ".join(str(process.pid) for process in load.processes.processes)
            return f"it was in use when MPS started, by process {pids}"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, str(mode))
        except OSError as error:
            return f"what it was couldn't be written to {self._path}: {error.strerror}"
        refusal = self._card.set_compute_mode(_EXCLUSIVE)
        if refusal:
            self._path.unlink()
        return refusal

    def give_back(self) -> None:
        """Put back what the mode was, if it was changed."""
        try:
            mode = int(self._path.read_text())
        except (OSError, ValueError):
            return
        refusal = self._card.set_compute_mode(mode)
        if refusal:
            logger().error("gpu.mode_kept", gpu=self._card.label, mode=mode, why=refusal)
            return
        self._path.unlink()
