"""The generator's processes as their parent sees them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Pipe
from typing import Any

from paldia.core.errors import InternalError, UnavailableError
from paldia.load.talk import Failed

ANSWER_S = 60.0
"""For a process to start, connect and say so."""
_END_S = 5.0


class Process:
    """A process at the other end of a pipe. It is in a session of its own: Ctrl-C isn't for it."""

    def __init__(self, module: str) -> None:
        self.pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # Not from where the user happens to stand: -P.
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def hear(self, limit_s: float = ANSWER_S) -> Any:
        """Wait for what it says next.

        Raises:
            UnavailableError: it couldn't do what it was told.
            InternalError: it says nothing or is gone.
        """
        if not self.pipe.poll(limit_s):
            raise InternalError(f"a process of the load generator said nothing for {limit_s:g} s")
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise InternalError(
                f"a process of the load generator ended with code {code}; killed for memory? Try "
                "a lower rate or a shorter run"
            ) from None
        if isinstance(said, Failed):
            raise UnavailableError(said.reason)
        return said

    def close(self) -> None:
        """End it: by itself as its pipe ends, or else at once."""
        self.pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def process(module: str) -> Iterator[Process]:
    """Run a module of this package with a pipe to it."""
    started = Process(module)
    try:
        yield started
    finally:
        started.close()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def now_s() -> float:
    """Give the clock that all processes of the machine share."""
    return time.monotonic()
