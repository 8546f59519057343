"""What a contestant has done, as the database says it: waiting for executions to be completed, and checking them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.policies import AUDITED, EFFECTS

__all__ = ["Executions", "WrongEffects"]

_SHORTEST, _LONGEST = 0.003, 0.2
"""Seconds between two looks; the fewer executions are left, the shorter."""
_PATIENCE = 60.0
"""Seconds without one execution more, after which there is no hope."""


class WrongEffects(Exception):
    """What was left in SQL is not what the events ask for; the text says what."""


class Executions:
    """The executions in one database.

    Args:
        connection: Of asyncpg, to that database, used by nobody else.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def of(cls, database_url: str) -> AsyncIterator[Executions]:
        """Those in this database; `synchronous_commit` must be on there."""
        import asyncpg

        connection = await asyncpg.connect(database_url)
        try:
            if (setting := await connection.fetchval("SHOW synchronous_commit")) != "on":
                raise WrongEffects(f"synchronous_commit is {setting!r}: turn it on, or the figures say nothing")
            yield cls(connection)
        finally:
            await connection.close()

    async def completed(self) -> int:
        """How many executions are completed."""
        found: int = await self._connection.fetchval(
            "SELECT count(*) FROM workflow_executions WHERE status = 'completed'"
        )
        return found

    async def reach(self, number: int, alive: Callable[[], None]) -> None:
        """Return once so many are completed; look seldom while many are left, so that looking costs nothing.

        Args:
            number: How many.
            alive: Called at each look; raises an exception where there is nobody left to complete any.

        Raises:
            WrongEffects: Nothing has been completed for a minute.
        """
        began = progressed = time.monotonic()
        first = before = await self.completed()
        while (count := await self.completed()) < number:
            alive()
            now = time.monotonic()
            if count > before:
                before, progressed = count, now
            elif now - progressed > _PATIENCE:
                raise WrongEffects(f"{count} of {number} executions are completed, and none in the last minute")
            each = (now - began) / (count - first) if count > first else 0.0
            await asyncio.sleep(min(max((number - count) * each / 3, _SHORTEST), _LONGEST))

    async def check(self, number: int) -> None:
        """Raise `WrongEffects` unless each of so many events left each effect and each audit row, once."""
        wrong = []
        for name, statement in EFFECTS.items():
            found = tuple(await self._connection.fetchrow(statement))
            if found != (number, number):
                wrong.append(f"{found[0]} {name}, {found[1]} different ones")
        rows = await self._connection.fetch("SELECT action, count(*) FROM audit_logs GROUP BY action")
        audited = {row[0]: row[1] for row in rows}
        if audited != {action: each * number for action, each in AUDITED.items()}:
            wrong.append(f"audit rows {audited}")
        if wrong:
            raise WrongEffects(f"{number} events should have left each effect once, but there are: {'; '.join(wrong)}")
