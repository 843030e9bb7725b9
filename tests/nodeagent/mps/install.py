"""Puts the stand-in on a PATH of its own, and takes down what it left running."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

SOURCE = Path(__file__).with_name("stand_in.py")


@dataclass(frozen=True)
class StandIn:
    """A stand-in for MPS, installed in a folder."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "nvidia-cuda-mps-control"

    def environment(self) -> dict[str, str]:
        """Give what lets it be found, before whatever else there is."""
        path = f"{self.program.parent}:{os.environ['PATH']}"
        return {"MPS_STAND_IN": str(self.folder), "PATH": path}

    def refuse(self, words: str) -> None:
        (self.folder / "refuse").write_text(words)

    def starts(self) -> list[str]:
        """List the pipe directories it was started with, oldest first."""
        path = self.folder / "starts"
        return path.read_text().splitlines() if path.is_file() else []

    def running(self, name: str = "nvidia-cuda-mps") -> list[psutil.Process]:
        """List its daemons and servers by the beginning of their name."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            _, word, *flags = [*(process.info["cmdline"] or []), "", ""]
            program = Path(word)
            if program.parent != self.program.parent or not program.name.startswith(name):
                continue
            # Without a flag it passes a command on, and is gone.
            asks = program == self.program and "-d" not in flags
            if not asks and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def end(self) -> None:
        for process in self.running():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[StandIn]:
    """Install the stand-in in a folder, and end all of it at the end."""
    one = StandIn(folder)
    one.program.parent.mkdir(parents=True)
    one.program.write_text(f"#!{sys.executable}\n{SOURCE.read_text()}")
    one.program.chmod(stat.S_IRWXU)
    one.program.with_name("nvidia-cuda-mps-server").symlink_to(one.program)
    try:
        yield one
    finally:
        one.end()
