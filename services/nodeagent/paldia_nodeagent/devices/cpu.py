"""Cores and memory, as far as this process may use them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_SAMPLE_LEAST_S = 0.5


class Cpu:
    """The cores this process is held to, and the memory it may use."""

    def __init__(self, cgroups: Path = _CGROUPS) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._limit = find_memory_limit(cgroups)
        self._sampled_s = time.monotonic()
        self._share = 0.0
        # The first call starts the count and says nothing.
        psutil.cpu_percent(percpu=True)

    @property
    def cores(self) -> int:
        """Number of cores this process may use."""
        return len(self._cores)

    @property
    def memory_bytes(self) -> int:
        """Memory of the machine, or of the control group if that has less."""
        total = int(psutil.virtual_memory().total)
        return min(total, self._limit[1]) if self._limit else total

    def share(self) -> float:
        """Give the share of the cores in use since the last call, 0 to 1."""
        now_s = time.monotonic()
        if now_s - self._sampled_s >= _SAMPLE_LEAST_S:
            self._sampled_s = now_s
            by_core = psutil.cpu_percent(percpu=True)
            used = [by_core[core] for core in self._cores if core < len(by_core)]
            self._share = sum(used) / len(used) / 100 if used else 0.0
        return self._share

    def memory_used_bytes(self) -> int:
        """Memory in use, what the system caches not counted."""
        if self._limit and self._limit[1] < psutil.virtual_memory().total:
            return _group_used_bytes(self._limit[0])
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)

    def memory_free_bytes(self) -> int:
        """Memory that is free for more."""
        return max(self.memory_bytes - self.memory_used_bytes(), 0)


def find_memory_limit(cgroups: Path) -> tuple[Path, int] | None:
    """Give this process's control group with a memory limit, and the limit in bytes."""
    folders = [cgroups]
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        folders.insert(0, cgroups / own.lstrip("/"))
    except (OSError, IndexError):
        pass
    for folder in folders:
        try:
            text = (folder / "memory.max").read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return folder, int(text)
    return None


def _group_used_bytes(folder: Path) -> int:
    used = int((folder / "memory.current").read_text())
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            used -= int(value)
    return max(used, 0)
