"""What Tritons write: a file each, kept short, and passed on to the agent's own log.

Passing on never holds the agent up: what is too much, or finds no room in the agent's
own output, is left out, counted, and told as a number. All of it stands in the file.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from paldia.kit.observability import logger
from paldia.kit.text import printable, shorten
from paldia_nodeagent.causes import split_line

_LIMIT_BYTES = 4 << 20
_KEPT_BYTES = 1 << 20
_READ_BYTES = 256 << 10
_LINES_PER_S = 10.0
_LINES_AT_ONCE = 200.0
_TOLD_EVERY_S = 5.0
_LINE_LIMIT_BYTES = 500
"""As JSON at most some 3 KB, which a pipe that has room at all takes whole."""
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class TritonLog:
    """The log file of one Triton."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size_bytes(self) -> int:
        """Give its size; 0 if there is none."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def since(self, position: int) -> str:
        """Give what was written since a position, or the end of that if it is much."""
        size_bytes = self.size_bytes()
        start = position if position <= size_bytes else 0
        return self.read(max(start, size_bytes - _READ_BYTES)).decode(errors="replace")

    def read(self, position: int) -> bytes:
        """Give what stands at a position, as much as is read at once; empty if it can't be."""
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                return file.read(_READ_BYTES)
        except OSError:
            return b""

    def trim(self) -> bool:
        """Keep the end of a log grown too long; whether it was. Triton appends, so it goes on."""
        if self.size_bytes() <= _LIMIT_BYTES:
            return False
        with self.path.open("r+b") as file:
            file.seek(-_KEPT_BYTES, os.SEEK_END)
            tail = file.read(_KEPT_BYTES)
            file.truncate(0)
        with self.path.open("ab") as file:
            file.write(tail)
        return True


class _Follower:
    """Passes on one log, no faster than its allowance."""

    def __init__(self, model: str, log: TritonLog, position: int) -> None:
        self._model, self._log, self._position = model, log, position
        self._allowance = _LINES_AT_ONCE
        self._left_out = 0
        self._told_s = self._seen_s = time.monotonic()

    def follow(self, now_s: float, has_room: Callable[[], bool], *, last: bool = False) -> None:
        """Pass on what is new; `last` says that nothing more will come."""
        more = (now_s - self._seen_s) * _LINES_PER_S
        self._allowance, self._seen_s = min(self._allowance + more, _LINES_AT_ONCE), now_s
        # As much as the file holds; what comes meanwhile is for the next time.
        for _ in range(_LIMIT_BYTES // _READ_BYTES):
            data = self._log.read(self._position)
            whole = data[: data.rfind(b"\n") + 1]
            if not whole and (last or len(data) == _READ_BYTES):
                whole = data
            if not whole:
                break
            self._position += len(whole)
            for line in whole.splitlines():
                self._pass_on(line, has_room)
        if self._log.trim():
            self._position = self._log.size_bytes()
        if self._left_out and (last or now_s - self._told_s >= _TOLD_EVERY_S) and has_room():
            logger().warning("triton.log_left_out", model=self._model, lines=self._left_out)
            self._left_out, self._told_s = 0, now_s

    def _pass_on(self, line: bytes, has_room: Callable[[], bool]) -> None:
        if not line.strip():
            return
        if self._allowance < 1 or not has_room():
            self._left_out += 1
            return
        self._allowance -= 1
        severity, text = split_line(line[: 2 * _LINE_LIMIT_BYTES].decode(errors="replace"))
        message = shorten(printable(text), _LINE_LIMIT_BYTES)
        logger().log(
            _LEVELS.get(severity, logging.INFO),
            "triton.log",
            model=self._model,
            severity=severity,
            message=message,
        )


class LogRelay:
    """Passes on the logs of this node's Tritons."""

    def __init__(self, has_room: Callable[[], bool] | None = None) -> None:
        """Pass on lines while `has_room()`; by default while stderr takes them at once."""
        self._has_room = has_room or _stderr_has_room
        self._followers: dict[str, _Follower] = {}

    def add(self, run: str, model: str, log: TritonLog) -> None:
        """Pass on what is written to `log` from now on."""
        self._followers[run] = _Follower(model, log, log.size_bytes())

    def remove(self, run: str) -> None:
        """Pass on the rest of a log, and no more of it."""
        if (follower := self._followers.pop(run, None)) is not None:
            follower.follow(time.monotonic(), self._has_room, last=True)

    def follow(self) -> None:
        """Pass on what is new."""
        for follower in self._followers.values():
            follower.follow(time.monotonic(), self._has_room)


def _stderr_has_room() -> bool:
    """Whether a line of at most PIPE_BUF bytes can be written without waiting."""
    try:
        return bool(select.select([], [sys.stderr], [], 0)[1])
    except (OSError, ValueError):
        return False
