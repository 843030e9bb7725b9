"""What is said on the emulator's socket: a JSON object a line, each answered by one.

From an instance of a model, `enter` with what is known of its process, then `run` with a
number of rows, answered `early_s` before the batch is done. From whoever wants to know, `read`.
The socket has a name in Linux's abstract namespace: no file is left behind, and no path is too
long.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile
from paldia_nodeagent.emulator.card import Process

LINE_LIMIT_BYTES = 64 << 10


def address(name: str) -> str:
    """Give the address of a socket by its name."""
    return f"\0{name}"


def encode(message: Any) -> bytes:
    """Give a message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read a message.

    Raises:
        InvalidArgumentError: it is none.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise InvalidArgumentError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise InvalidArgumentError("not a JSON object")
    return message


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """Give what the card needs to know of a profile."""
    told = dataclasses.asdict(profile)
    del told["provenance"]
    return told


def process_of(told: Any) -> Process:
    """Read what an instance says of its process.

    Raises:
        InvalidArgumentError: it makes no sense.
    """
    try:
        figures = told["profile"]
        profile = Profile(
            points=_curve(figures["points"]),
            demand=_curve(figures["demand"]),
            sm_share=_curve(figures["sm_share"]),
            load_s=float(figures["load_s"]),
            memory_bytes=int(figures["memory_bytes"]),
            colocation_penalty=float(figures["colocation_penalty"]),
            interference=tuple(map(float, figures["interference"])),
            watts=float(figures["watts"]),
        )
        return Process(int(told["pid"]), str(told["model"]), profile, int(told["sm_percent"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"not a process's figures: {error!r}") from error


def _curve(told: Any) -> tuple[tuple[int, float], ...]:
    return tuple((int(batch), float(value)) for batch, value in told)
