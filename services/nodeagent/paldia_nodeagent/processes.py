"""Processes as /proc shows them: who is alive, who is a stray, what they leave behind.

A pid alone names nobody, since pids are used again: a process is its pid and the time
it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from paldia_nodeagent.stillness import Work

EMULATOR = "paldia_nodeagent.emulator.server"
"""The module that runs as an emulator."""
_POLL_S = 0.02
# The name as the kernel keeps it, cut to 15 bytes.
_STUB_NAME = "triton_python_b"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - shared memory is there and nowhere else


def started_ticks(pid: int) -> int | None:
    """Give a living process's start in clock ticks since boot; None if it is dead.

    A zombie is dead once its last thread is: a killed process's first thread shows as a
    zombie while others still finish what they do.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything; the fields after it are fixed.
    fields = stat[stat.rindex(")") + 2 :].split()
    state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    return None if state in "ZX" and threads <= 1 else ticks


def listening_port(pid: int) -> int | None:
    """Give the TCP port that a process listens on; None if it doesn't."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.Process(pid).net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
    return None


async def wait_dead(pids: Iterable[int], limit_s: float) -> None:
    """Wait until these processes are dead, but no longer than `limit_s` seconds."""
    living = {pid: ticks for pid in pids if (ticks := started_ticks(pid)) is not None}
    for _ in range(round(limit_s / _POLL_S)):
        if not any(started_ticks(pid) == ticks for pid, ticks in living.items()):
            return
        await asyncio.sleep(_POLL_S)


def fates_of_stubs(pid: int) -> dict[int, int | None]:
    """Give how the Python stubs of a Triton ended, by pid.

    None is a living one; otherwise the exit code, or minus the number of the signal that
    killed it. Only those that Triton hasn't asked after are known.
    """
    fates: dict[int, int | None] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                if child.name().startswith(_STUB_NAME):
                    fates[child.pid] = _fate(child)
    return fates


def _fate(process: psutil.Process) -> int | None:
    if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return None
    wait_status = int(Path(f"/proc/{process.pid}/stat").read_text().split()[-1])
    return os.waitstatus_to_exitcode(wait_status)


def kill_marked(mark: str, spare: frozenset[str] = frozenset()) -> list[int]:
    """Kill what agents start with `mark`, but none of `spare`, in an argument; give the pids.

    Tritons and stubs carry their shared-memory prefix there, emulators their socket's name,
    so this finds them however they came to be alone.
    """
    pids = []
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        is_triton = (process.info["name"] or "").startswith("triton")
        if not is_triton and EMULATOR not in arguments:
            continue
        text = "\0".join(arguments)
        if mark in text and not any(kept in text for kept in spare):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                pids.append(process.pid)
    return pids


def signal_group(pgid: int, signum: int) -> None:
    """Signal a process group; no error if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pgid, signum)


def remove_shared_memory(prefix: str, keep: frozenset[str] = frozenset()) -> int:
    """Remove regions whose names start with `prefix` but with none of `keep`; give their number.

    Killed Tritons and stubs leave theirs behind.
    """
    count = 0
    for path in _SHARED_MEMORY.glob(f"{prefix}*"):
        if not any(path.name.startswith(kept) for kept in keep):
            path.unlink(missing_ok=True)
            count += 1
    return count


def _tree(pid: int) -> list[psutil.Process]:
    """List a process and all below it; none if it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def family(pid: int) -> frozenset[int]:
    """Give the pids of a process and all below it; none if it is gone."""
    return frozenset(process.pid for process in _tree(pid))


def resident_bytes(pid: int) -> int:
    """Give the resident memory of a process and all below it."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_info().rss
    return total


def work(pid: int) -> Work:
    """Give what a process and all below it have done so far."""
    cpu_s, moved_bytes = 0.0, 0
    waits_s: dict[int, float] = {}
    on_disk = False
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = process.cpu_times()
            cpu_s += times.user + times.system
            on_disk = on_disk or process.status() == psutil.STATUS_DISK_SLEEP
            moved = process.io_counters()
            moved_bytes += moved.read_chars + moved.write_chars + moved.read_bytes
        for thread in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            # Nanoseconds run, nanoseconds waited, times run; absent on some kernels.
            with contextlib.suppress(OSError, IndexError):
                waits_s[int(thread.parent.name)] = int(thread.read_text().split()[1]) / 1e9
    return Work(cpu_s, waits_s, moved_bytes, on_disk)


def voluntary_switches(pids: Iterable[int]) -> dict[int, int]:
    """Give how often the first thread of each process gave up its core by itself, by pid."""
    switches = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            switches[pid] = int(psutil.Process(pid).num_ctx_switches().voluntary)
    return switches
