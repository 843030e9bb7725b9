"""Moments as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from paldia.cli.moments import moment_of
from paldia.core.errors import InvalidArgumentError

HERE = timezone(timedelta(hours=2))
NOW = datetime(2026, 3, 4, 15, 30, 45, 500_000, tzinfo=HERE)
WHOLE = timedelta(microseconds=999_999)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("14:05", datetime(2026, 3, 4, 14, 5, tzinfo=HERE) + WHOLE),
        ("9:05", datetime(2026, 3, 4, 9, 5, tzinfo=HERE) + WHOLE),
        ("14:05:06", datetime(2026, 3, 4, 14, 5, 6, tzinfo=HERE) + WHOLE),
        ("2026-03-03T14:05:06", datetime(2026, 3, 3, 14, 5, 6, tzinfo=HERE) + WHOLE),
        ("2026-03-03 14:05:06", datetime(2026, 3, 3, 14, 5, 6, tzinfo=HERE) + WHOLE),
        ("2026-03-03T14:05:06Z", datetime(2026, 3, 3, 14, 5, 6, tzinfo=UTC) + WHOLE),
        ("2026-03-03T14:05:06.25+01:00", datetime(2026, 3, 3, 13, 5, 6, 250_000, tzinfo=UTC)),
        ("2026-03-03", datetime(2026, 3, 3, tzinfo=HERE) + WHOLE),
        ("-0s", NOW),
        ("-90s", NOW - timedelta(seconds=90)),
        ("-5m", NOW - timedelta(minutes=5)),
        ("-2h", NOW - timedelta(hours=2)),
        ("-3d", NOW - timedelta(days=3)),
        ("-99999d", NOW - timedelta(days=99_999)),
    ],
)
def test_a_moment_is_understood(text, meant):
    assert moment_of(text, NOW) == meant


@pytest.mark.parametrize(
    "text", ["", "soon", "5m", "-5", "-5w", "-m", "-999999d", "24:01", "14:61", "14", "2026-13-01"]
)
def test_what_is_no_moment_is_refused_with_what_is(text):
    with pytest.raises(InvalidArgumentError, match="write 14:05"):
        moment_of(text, NOW)


@pytest.mark.parametrize("text", ["15:31", "2026-03-04T13:31:00Z", "2999-01-01"])
def test_the_future_holds_no_records(text):
    with pytest.raises(InvalidArgumentError, match="still to come"):
        moment_of(text, NOW)
