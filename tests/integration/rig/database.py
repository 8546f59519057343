"""What stands in PostgreSQL, read past the product's own code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

__all__ = ["Books", "books"]


class Books:
    """Questions to the runner's database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """What a query finds."""
        found: list[asyncpg.Record] = await self._pool.fetch(query, *arguments)
        return found

    async def processed(self) -> int:
        """How many messages have an outcome, as the progress counts them."""
        query = "SELECT coalesce(sum(handled + filtered + dead + duplicate), 0)::bigint FROM progress"
        return int(await self._pool.fetchval(query))

    async def outcomes(self) -> dict[str, int]:
        """Messages by outcome, those that there are none of left out."""
        [row] = await self.rows("SELECT handled, filtered, dead, duplicate FROM progress")
        return {name: count for name, count in row.items() if count}

    async def audited(self) -> Counter[str]:
        """How many audit rows each event has."""
        return Counter(row["event_id"] for row in await self.rows("SELECT event_id FROM audit_logs"))

    async def audit_outcomes(self) -> dict[str, int]:
        """How many audit rows there are, by outcome."""
        return dict(await self.rows("SELECT outcome, count(*) FROM audit_logs GROUP BY outcome"))

    async def dead_letters(self) -> list[asyncpg.Record]:
        """All dead letters, in stream order."""
        return await self.rows("SELECT * FROM dead_letters ORDER BY message_offset")

    async def states(self, source: str) -> dict[int, str]:
        """The state of a source in each runner that beats, by the runner's process id."""
        found = await self.rows("SELECT pid, stats FROM instances WHERE beat_at > clock_timestamp() - interval '5 s'")
        sources = {row["pid"]: _json(row["stats"])["sources"] for row in found}  # workers have none
        return {pid: each[source]["state"] for pid, each in sources.items() if source in each}

    async def owner(self) -> int | None:
        """The process id of the runner that owns the source; None where none does."""
        rows = await self.rows("SELECT owner FROM progress WHERE owner IS NOT NULL")
        return int(rows[0]["owner"].rsplit(":", 4)[1]) if rows else None


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


@asynccontextmanager
async def books(url: str) -> AsyncIterator[Books]:
    """The books in the database of this URL."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=2)
    try:
        yield Books(pool)
    finally:
        await pool.close()
