"""A machine with an NVML of its own making, described by a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
DRIVER = {"driver": "550.54.15", "cuda": 12040}
T4 = {
    "uuid": "GPU-aaaaaaaa-0000-0000-0000-000000000001",
    "name": "Tesla T4",
    "capability": "7.5",
    "memory": 16 << 30,
    "used": 3 << 30,
    "sm_percent": 25,
    "memory_percent": 10,
    "power_mw": 41500,
    "energy_mj": 7_000_500,
    "temperature": 55,
    "sm_mhz": 1590,
    "memory_mhz": 5001,
    "throttle": 0x1 | 0x4 | 0x40 | 0x8000,
    "corrected": 3,
    "uncorrected": 0,
    "xids": 0,
    "processes": f"41:{1 << 30},42:{2 << 30}",
    "mig": 0,
    "mode": 0,
}
"""All figures that a card can tell."""

M60 = {"uuid": "GPU-bbbbbbbb-0000-0000-0000-000000000002", "name": "Tesla M60", "memory": 8 << 30}


def compile_nvml(folder: Path, *flags: str) -> Path:
    """Compile the library into a folder and give its path; skip without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build an NVML with")
    path = folder / "libnvidia-ml.so.1"
    command = [compiler, "-O1", "-shared", "-fPIC", *flags, "-o", path, HERE / "nvml.c"]
    subprocess.run(command, check=True)
    return path


class Machine:
    """A machine with an NVML, and a process that asks it through the agent's code."""

    def __init__(self, folder: Path, library: Path | None, environment: dict[str, str]) -> None:
        self.file = folder / "machine"
        self.file.touch()
        self.mps = folder / "mps"
        self.environment = {
            **environment,
            "NVML_MACHINE": str(self.file),
            "LD_LIBRARY_PATH": str(library.parent if library else folder),
        }
        self._process: subprocess.Popen[str] | None = None

    def set(self, card: int | None = None, **figures: object) -> None:
        """Change figures of a card, or of all of the machine; None is what it can't tell."""
        prefix = "" if card is None else f"{card}."
        with self.file.open("a") as file:
            file.writelines(
                f"{prefix}{key}={'' if value is None else value}\n"
                for key, value in figures.items()
            )

    def values(self, card: int, key: str) -> list[str]:
        """Give all values that a figure of a card has had."""
        prefix = f"{card}.{key}="
        lines = self.file.read_text().splitlines()
        return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]

    def ask(self, word: str) -> Any:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "ask.py"), str(self.mps)],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return json.loads(line)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
