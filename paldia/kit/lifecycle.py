"""From the first signal to the exit code.

A service's `main` is `run(serve)`: `serve(stop)` sets everything up, waits for `stop`
and takes everything down again. SIGTERM and SIGINT set `stop`; a second signal exits at
once. Errors meant for the user end in one line and exit code 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path

from paldia.core.errors import PaldiaError
from paldia.kit.files import replace_text

_TETHER = Path(__file__).with_name("tether.py")


def tethered(command: Sequence[str]) -> list[str]:
    """Give the command that runs `command` until this thread ends, however it does.

    The kernel ties "when the parent dies" to the thread that started the child, so that must be
    one that lives as long as all its children.
    """
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]


def run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `serve(stop)` until it returns; give the process's exit code."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                os._exit(130)
            stop.set()

        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, on_signal)
        await serve(stop)

    try:
        asyncio.run(main())
    except PaldiaError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr, flush=True)
        return 1
    except BaseExceptionGroup as group:
        # A task group wraps what its tasks raise; the user wants the cause alone.
        causes, rest = group.split(PaldiaError)
        if causes is None or rest is not None:
            raise
        print(f"{Path(sys.argv[0]).name}: {_first(causes)}", file=sys.stderr, flush=True)
        return 1
    return 0


def open_files_limit() -> int:
    """Let the process open as many files as it may at all; give how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _first(group: BaseExceptionGroup[PaldiaError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def sleep_unless(event: asyncio.Event, seconds: float) -> bool:
    """Sleep, but wake when `event` is set; True if it was."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def wait_any(waits: Iterable[Coroutine[None, None, object]], timeout_s: float) -> None:
    """Wait until one of several things has happened, or the time is up; the rest is dropped."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def announce_ready(path: Path | None, facts: Mapping[str, object]) -> None:
    """Publish that the process serves: write its addresses to `path` as JSON, atomically.

    A parent that asked for port 0 learns the real one here, and needs no probing.
    """
    if path is None:
        return
    replace_text(path, json.dumps({"pid": os.getpid(), **facts}))
