"""What processes on this machine use: CPU time over a while, resident memory now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import psutil

Groups: TypeAlias = Mapping[str, Iterable[psutil.Process]]
Key: TypeAlias = tuple[int, float]
"""A process, even if its id is used again: id and time of start."""

_TRITON = "triton"
"""How the programs of Triton begin; the kernel keeps 15 letters of a name."""


def tree(pid: int) -> list[psutil.Process]:
    """Give a process and all below it; none if it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tritons_and_others(
    processes: Iterable[psutil.Process],
) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Tell Tritons, with their stubs, from other processes."""
    tritons: list[psutil.Process] = []
    others: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            (tritons if process.name().startswith(_TRITON) else others).append(process)
    return tritons, others


class CpuMeter:
    """CPU seconds that groups of processes use from `start` on."""

    def __init__(self, groups: Callable[[], Groups]) -> None:
        """Take what tells which processes there are; it is asked at both ends."""
        self._groups = groups
        self._before: Mapping[Key, float] = {}

    def start(self) -> None:
        """Count from now on."""
        self._before = {
            key: used_s for group in self._read().values() for key, used_s in group.items()
        }

    def used_s(self) -> dict[str, float]:
        """Give the seconds used since, by group; processes that ended meanwhile aren't seen."""
        return {name: used(self._before, group) for name, group in self._read().items()}

    def _read(self) -> dict[str, dict[Key, float]]:
        read: dict[str, dict[Key, float]] = {}
        for name, processes in self._groups().items():
            read[name] = {}
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    read[name][process.pid, process.create_time()] = times.user + times.system
        return read


def used(before: Mapping[Key, float], after: Mapping[Key, float]) -> float:
    """Give the seconds that the processes of `after` used; new ones used all they have."""
    return sum(used_s - before.get(key, 0.0) for key, used_s in after.items())
