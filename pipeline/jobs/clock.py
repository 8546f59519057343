"""The clock of jobs: the database's time, so that workers whose own clocks differ agree on what is due."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.ledger.columns import utcnow

__all__ = ["Clock"]


class Clock:
    """The time by which jobs are due and claims run out.

    Args:
        now: A clock for tests, aware, in UTC, which `measure` leaves as it is; None for the database's time, which is
            this process's until it is measured.
    """

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        self._now = now or utcnow
        self._given = now is not None
        self._offset = timedelta()
        self.is_measured = self._given
        """Whether this is the database's time already."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""
        return self._now() + self._offset

    async def measure(self, connection: AsyncConnection) -> None:
        """Compare with the database's clock. A SQLite file has none but this machine's."""
        if self._given or connection.dialect.name != "postgresql":
            self.is_measured = True
            return
        before = utcnow()
        there = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        after = utcnow()
        self._offset = there.astimezone(UTC) - (before + (after - before) / 2)
        self.is_measured = True
