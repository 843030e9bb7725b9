"""The Tritons this agent started, on disk, so that the next agent can adopt them.

Each has a folder of its own under `runs/` with its record in it. Records are written
atomically, so a killed agent leaves the old one or the new one.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from paldia.kit.files import replace_text

_RECORD = "process.json"
Purpose = Literal["serve", "profile"]


@dataclass(frozen=True, slots=True)
class Record:
    """A Triton process, none yet while `pid` is 0; no `endpoint` until its model has loaded.

    `environment` is what it was given for the node's accelerators.
    """

    run: str
    model: str
    digest: str
    purpose: Purpose
    pid: int = 0
    started_ticks: int = 0
    endpoint: str = ""
    load_s: float = 0.0
    loaded_bytes: int = 0
    sm_percent: int = 100
    device: str = "auto"
    environment: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """Records of Triton processes in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new_run(self) -> str:
        """Make a folder for a process about to start and give its name."""
        run = secrets.token_hex(4)
        (self._folder / run).mkdir()
        return run

    def folder(self, run: str) -> Path:
        """Give the folder of a run."""
        return self._folder / run

    def write(self, record: Record) -> None:
        """Record a process, or what changed about it."""
        path = self.folder(record.run) / _RECORD
        replace_text(path, json.dumps(dataclasses.asdict(record)))

    def read(self) -> list[Record]:
        """Read all records; what can't be read is no record."""
        records = []
        for path in sorted(self._folder.glob(f"*/{_RECORD}")):
            try:
                records.append(Record(**json.loads(path.read_text())))
            except (OSError, ValueError, TypeError):
                continue
        return records

    def forget(self, run: str) -> None:
        """Remove a run's folder and record."""
        shutil.rmtree(self.folder(run), ignore_errors=True)

    def forget_all_but(self, runs: frozenset[str]) -> None:
        """Remove every folder but those of `runs`."""
        for path in self._folder.iterdir():
            if path.name not in runs:
                shutil.rmtree(path, ignore_errors=True)
