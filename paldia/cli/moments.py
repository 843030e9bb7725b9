"""Moments as people type them: `14:05`, `-5m`, or in full."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from paldia.core.errors import InvalidArgumentError

_AGO = re.compile(r"-(\d{1,5})([smhd])")
_TODAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_of(text: str, now: datetime) -> datetime:
    """Give the moment that was meant.

    A whole second means its end: moments are shown without fractions, and what is shown as that
    second happened within it.

    Args:
        text: ISO 8601, local time unless it names a zone; `HH:MM[:SS]` of today; or `-5m` for
            five minutes ago, in `s`, `m`, `h` or `d`.
        now: the present, in the zone that is local.

    Raises:
        InvalidArgumentError: it is none of these, or not in the past.
    """
    if ago := _AGO.fullmatch(text):
        return now - timedelta(seconds=int(ago[1]) * _UNITS_S[ago[2]])
    meant = _read(text, now)
    if meant > now:
        raise InvalidArgumentError(
            f"{text} is still to come (it is {now.isoformat(timespec='seconds')}); "
            "name a moment of the past"
        )
    return meant if meant.microsecond else meant + timedelta(microseconds=999_999)


def _read(text: str, now: datetime) -> datetime:
    try:
        if _TODAY.fullmatch(text):
            hours, *rest = text.split(":")
            of_day = time.fromisoformat(":".join([hours.zfill(2), *rest]))
            return datetime.combine(now.date(), of_day, tzinfo=now.tzinfo)
        meant = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            f"{text!r} is no moment; write 14:05 or 14:05:30 for today, -5m for five minutes ago "
            "(s, m, h, d), or 2026-01-31T14:05:30, with Z at its end for UTC"
        ) from None
    return meant if meant.tzinfo else meant.replace(tzinfo=now.tzinfo)
