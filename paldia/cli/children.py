"""Child processes that leave nothing behind: each in a group of its own, with a log file.

A child ends when it is stopped, or when this process dies in any way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paldia.core.errors import ExpiredError, UnavailableError
from paldia.kit.lifecycle import tethered

_POLL_S = 0.02
_TAIL_BYTES = 16_384
_TAIL_LINES = 12

Facts = Mapping[str, Any]


class Spawner:
    """Starts children from a thread of its own.

    The kernel ties "when the parent dies" to the thread that started the child, so that
    must be one which lives as long as all of them.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def start(self, child: Child) -> None:
        """Start a child; its handle is there even if the wait for it is interrupted."""
        self._thread.submit(child.spawn).result()

    def settle(self) -> None:
        """Wait until all that was asked for has started."""
        self._thread.submit(lambda: None).result()

    def finish(self) -> None:
        """End the thread; children that still run are told to end."""
        self._thread.shutdown(wait=True)


@dataclass(slots=True)
class Child:
    """One program to run, and its process once it runs.

    `probe` gives the facts the program announces when it serves, None before.
    """

    name: str
    command: Sequence[str]
    log_path: Path
    probe: Callable[[], Facts | None]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def spawn(self) -> None:
        """Start the program; call it through a Spawner."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                tethered(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        """Process id, which is also its group's."""
        if self.process is None:
            raise UnavailableError(f"{self.name} was never started")
        return self.process.pid

    def exit_code(self) -> int | None:
        """Give the exit code, negative for a signal; None while it runs."""
        return self.process.poll() if self.process else None

    def wait_ready(self, deadline_s: float) -> Facts:
        """Wait until the program serves; give the facts it announced.

        Args:
            deadline_s: on the monotonic clock.

        Raises:
            UnavailableError: it ended instead; with its own last words.
            ExpiredError: it didn't serve in time.
        """
        while True:
            if (facts := self.probe()) is not None:
                return facts
            if self.exit_code() is not None:
                raise UnavailableError(f"{self.epitaph()} (log: {self.log_path})")
            if time.monotonic() > deadline_s:
                raise ExpiredError(
                    f"{self.name} doesn't serve in time; its log {self.log_path} ends with\n"
                    f"{self.tail()}"
                )
            time.sleep(_POLL_S)

    def signal(self, signum: int) -> None:
        """Signal the process alone, not its group; no error if it has ended."""
        if self.process is not None:
            self.process.send_signal(signum)

    def epitaph(self) -> str:
        """Say how it ended: in its own words if it left some, or by the end of its log."""
        code = self.exit_code()
        how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with code {code}"
        tail = self.tail()
        last = tail.rpartition("\n")[2]
        if last.startswith("paldia-"):
            return f"{self.name} ended {how}: {last}"
        return f"{self.name} ended {how}" + (f"; its last lines:\n{tail}" if tail else "")

    def tail(self) -> str:
        """Give the last lines of its log."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").rstrip().splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def end(children: Iterable[Child], grace_s: float) -> None:
    """Ask children to end, all at once; kill those that haven't after `grace_s` seconds."""
    alive = [child for child in children if child.process and child.exit_code() is None]
    for child in alive:
        child.signal(signal.SIGTERM)
        # A stopped process can't act on it.
        child.signal(signal.SIGCONT)
    deadline_s = time.monotonic() + grace_s
    for child in alive:
        process = child.process
        assert process is not None  # noqa: S101 - just selected
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ready_file(path: Path) -> Callable[[], Facts | None]:
    """Give a probe for a ready file as `paldia.kit.lifecycle` writes it."""

    def probe() -> Facts | None:
        try:
            facts: Facts = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return facts

    return probe
