"""Text that others wrote, made fit to travel and to be shown."""

from __future__ import annotations

import re

_GAP = "\n[...]\n"
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shorten(text: str, limit_bytes: int) -> str:
    """Cut the middle out of a text over `limit_bytes` of UTF-8: causes stand first and last."""
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    half = (limit_bytes - len(_GAP)) // 2
    head, tail = encoded[:half].decode(errors="ignore"), encoded[-half:].decode(errors="ignore")
    return f"{head}{_GAP}{tail}"


def printable(text: str) -> str:
    """Leave out what would steer a terminal: all control characters but new lines and tabs."""
    return _STEERING.sub("", text)
