"""Which CPU cores the agent and all it starts may use.

Affinity is inherited at exec, so it is set before anything else runs: set later it
would move one thread and leave Triton anywhere.
"""

from __future__ import annotations

import os
import re

from paldia.core.errors import InvalidArgumentError

_PART = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_cores(text: str) -> frozenset[int]:
    """Read a list such as `0,2-3`.

    Raises:
        InvalidArgumentError: it is malformed or empty.
    """
    cores: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise InvalidArgumentError(f"{text!r} is no list of cores; write --cores 0,2-3")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise InvalidArgumentError(f"{part!r} in --cores runs backwards; write {last}-{first}")
        cores.update(range(first, last + 1))
    return frozenset(cores)


def pin(cores: frozenset[int]) -> None:
    """Hold this process, and all it starts from now on, to `cores`.

    Raises:
        InvalidArgumentError: the machine lacks one, or this process may not use it.
    """
    allowed = os.sched_getaffinity(0)
    if missing := sorted(cores - allowed):
        raise InvalidArgumentError(
            f"--cores names {_list(missing)}, but this process may use {_list(sorted(allowed))}"
        )
    os.sched_setaffinity(0, cores)


def _list(cores: list[int]) -> str:
    return ",".join(map(str, cores))
