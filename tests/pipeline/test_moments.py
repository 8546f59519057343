"""Times on a command line: one grammar for all commands."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.errors import UserError
from pipeline.moments import moment

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("24h", datetime(2026, 1, 30, 12, tzinfo=UTC)),
        ("1m30s", datetime(2026, 1, 31, 11, 58, 30, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T09:00", datetime(2026, 1, 31, 9, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_time_is_how_long_ago_a_date_or_a_time_with_a_zone_or_without(text: str, time: datetime) -> None:
    assert moment(text, NOW) == time


@pytest.mark.parametrize("text", ["yesterday", "", "-2h", "90", "1.5", "2026-13-01", "2 h"])
def test_what_is_no_time_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(UserError, match=r"is no time: write a time as in 2026-01-31 or .*, or how long ago, as in 2h"):
        moment(text)


@pytest.mark.parametrize("text", ["9999999d", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is too long ago|is out of range"):
        moment(text)
