"""Makes a node slow on purpose: its Tritons are stopped for part of every few milliseconds.

The duty cycle runs in a small process of its own, told by lines on its stdin which
process groups to slow. However the agent ends, the pipe closes, and that process lets
every group go on before it leaves; so nothing stays stopped. Run as a module it is that
process; it imports the standard library alone, to start fast.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

PERIOD_S = 0.008
_OWED_MOST_S = 0.1


class Throttle:
    """Slows process groups by a factor; a factor of 1 leaves them alone."""

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, pgid: int) -> None:
        """Slow a process group from now on."""
        if self.slowdown > 1:
            self._groups.add(pgid)
            self._tell(f"+{pgid}\n")
            self.check()

    def remove(self, pgid: int) -> None:
        """Let a process group go on at full speed."""
        if pgid in self._groups:
            self._groups.discard(pgid)
            self._tell(f"-{pgid}\n")

    def check(self) -> None:
        """Start the duty cycle's process if it isn't there or died."""
        if not self._groups or (self._process is not None and self._process.poll() is None):
            return
        for pgid in self._groups:
            # It may have died while they were stopped.
            _signal(pgid, signal.SIGCONT)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.slowdown)],
            stdin=subprocess.PIPE,
            # Out of the reach of Ctrl-C: it ends when the pipe does.
            start_new_session=True,
        )
        self._tell("".join(f"+{pgid}\n" for pgid in sorted(self._groups)))

    def stop(self) -> None:
        """Let every group go on at full speed."""
        self._groups.clear()
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _tell(self, orders: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(orders.encode())
                self._process.stdin.flush()


def _signal(pgid: int, signum: int) -> bool:
    try:
        os.killpg(pgid, signum)
    except ProcessLookupError:
        return False
    return True


def _follow_orders(groups: set[int], wait_s: float) -> bool:
    """Do what the agent says for `wait_s` seconds; False once the agent is gone."""
    end_s = time.monotonic() + wait_s
    while True:
        # Nothing to slow: sleep until there is.
        left_s = max(end_s - time.monotonic(), 0.0) if groups else None
        readable, _, _ = select.select([0], [], [], left_s)
        if not readable:
            return True
        data = os.read(0, 65536)
        if not data:
            return False
        for order in data.decode().split():
            pgid = int(order[1:])
            if order[0] == "+":
                groups.add(pgid)
            else:
                groups.discard(pgid)
                _signal(pgid, signal.SIGCONT)


def run_duty_cycle(slowdown: float) -> None:
    """Stop and continue the groups named on stdin until it closes."""
    groups: set[int] = set()
    # Time that groups must stand still for the time they ran. On a busy core this process
    # wakes late, so both are measured, and what one round misses the next makes up for.
    owed_s = 0.0
    try:
        while True:
            began_s = time.monotonic()
            if not _follow_orders(groups, PERIOD_S / slowdown):
                return
            groups -= {pgid for pgid in groups if not _signal(pgid, signal.SIGSTOP)}
            stopped_s = time.monotonic()
            owed_s = min(owed_s + (stopped_s - began_s) * (slowdown - 1), _OWED_MOST_S)
            if not _follow_orders(groups, max(owed_s, 0.0)):
                return
            for pgid in groups:
                _signal(pgid, signal.SIGCONT)
            owed_s = max(owed_s - (time.monotonic() - stopped_s), -_OWED_MOST_S)
    finally:
        for pgid in groups:
            _signal(pgid, signal.SIGCONT)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run_duty_cycle(float(sys.argv[1]))
