"""Times as people write them on a command line, in one way for all commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from pipeline.errors import UserError

__all__ = ["WRITTEN", "moment"]

WRITTEN: Final = "a time as in 2026-01-31 or 2026-01-31T12:00:00Z, UTC without a zone, or how long ago, as in 2h"
"""How a time is written, for help and messages."""


def moment(text: str, now: datetime | None = None) -> datetime:
    """The time that a text stands for, in UTC.

    Args:
        text: A date or a time in ISO 8601, in UTC unless it has a zone; or a duration such as ``2h`` or ``1m30s``,
            which counts back from now.
        now: Now, for tests; by default by this machine's clock.

    Raises:
        UserError: It is neither, or no such time exists in UTC.
    """
    from pipeline.config.fields import seconds  # its models take time to load, and --help needs none

    try:
        if not text.replace(".", "").isdigit():  # a mere number has no unit
            ago = seconds(text)
            return (now or datetime.now(UTC)) - timedelta(seconds=float(str(ago)))
    except ValueError:
        pass
    except OverflowError:
        raise UserError(f"{text!r} is too long ago: write {WRITTEN}") from None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except ValueError:
        raise UserError(f"{text!r} is no time: write {WRITTEN}") from None
    except OverflowError:
        raise UserError(f"{text!r} is out of range: there is no such time in UTC") from None
