"""What a run has found so far, kept in a file as it comes, so that a stopped run can go on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

from bench.dataplane.measure import Pilot
from bench.dataplane.summary import Row

Pair: TypeAlias = tuple[str, str]
"""A system and a workload, by name."""


@dataclass(slots=True)
class Session:
    """Pilots and visits of one length of load.

    Attributes:
        seconds: that length; what was kept of another isn't read.
        visits: by system, workload and repeat.
        skipped: who couldn't be measured, and why.
    """

    path: Path
    seconds: float
    pilots: dict[Pair, Pilot] = field(default_factory=dict)
    visits: dict[tuple[str, str, int], Row] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def read(self) -> None:
        """Take what an earlier run found; a torn last line is left out."""
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                kept = json.loads(line)
            except json.JSONDecodeError:
                continue
            pair = (kept["system"], kept["workload"])
            if kept["seconds"] != self.seconds:
                continue
            if kept["repeat"] is None:
                self.pilots[pair] = Pilot(**kept["found"])
            else:
                self.visits[(*pair, kept["repeat"])] = kept["found"]

    def keep_pilot(self, pair: Pair, found: Pilot) -> None:
        """Add what a pilot found."""
        self.pilots[pair] = found
        self._keep(pair, None, asdict(found))

    def keep_visit(self, pair: Pair, repeat: int, found: Row) -> None:
        """Add what a visit found."""
        system, workload = pair
        row = {"system": system, "workload": workload, **found}
        self.visits[(*pair, repeat)] = row
        self._keep(pair, repeat, row)

    def _keep(self, pair: Pair, repeat: int | None, found: Row) -> None:
        system, workload = pair
        line = {
            "system": system,
            "workload": workload,
            "repeat": repeat,
            "seconds": self.seconds,
            "found": found,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
