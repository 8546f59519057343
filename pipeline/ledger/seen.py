"""Dedupe: the ids of finished events, per consumer group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.ledger.clean import clean_id
from pipeline.ledger.columns import UTCDateTime
from pipeline.ledger.database import Database

__all__ = ["SeenIds"]

_DELETED_AT_ONCE: Final = 5_000
"""Rows per DELETE, so that forgetting never holds the writer up for long."""

# All ids travel as one parameter, so that there is one statement whatever their number. PostgreSQL looks each of them
# up by the key: a join would be planned while the table is small, and scan all of it once it has grown.
_FIND: Final = {
    "sqlite": "SELECT event_id FROM seen_events "
    "WHERE consumer_group = :group AND event_id IN (SELECT value FROM json_each(:ids))",
    "postgresql": "SELECT id FROM unnest(CAST(:ids AS text[])) AS id "
    "WHERE (SELECT true FROM seen_events WHERE consumer_group = :group AND event_id = id)",
}
_REMEMBER: Final = {
    "sqlite": "INSERT OR IGNORE INTO seen_events (consumer_group, event_id, seen_at) "
    "SELECT :group, value, :at FROM json_each(:ids)",
    "postgresql": "INSERT INTO seen_events (consumer_group, event_id, seen_at) "
    "SELECT :group, id, :at FROM unnest(CAST(:ids AS text[])) AS id ON CONFLICT DO NOTHING",
}
_FORGET: Final = (
    "DELETE FROM seen_events WHERE consumer_group = :group AND event_id IN "
    "(SELECT event_id FROM seen_events WHERE consumer_group = :group AND seen_at < :before "
    "ORDER BY seen_at LIMIT :limit)"
)


class SeenIds:
    """The table `seen_events`, read and written many ids at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._find = text(_FIND[db.dialect])
        self._remember = _with_times(_REMEMBER[db.dialect], "at")
        self._forget = _with_times(_FORGET, "before")

    async def find(self, group: str, ids: Sequence[str]) -> set[str]:
        """Which of these ids the group has finished before."""
        if not ids:
            return set()
        as_given = {clean_id(event_id): event_id for event_id in ids}
        async with self._db.read() as connection:
            found = await connection.execute(self._find, {"group": group, "ids": self._list(as_given)})
            return {as_given[event_id] for event_id in found.scalars()}

    async def remember(self, connection: AsyncConnection, group: str, ids: Iterable[str], at: datetime) -> None:
        """Add these ids within a transaction; those that are there keep their time."""
        # Sorted, so that two streams of one group never wait for each other's ids.
        cleaned = sorted({clean_id(event_id) for event_id in ids})
        if cleaned:
            await connection.execute(self._remember, {"group": group, "ids": self._list(cleaned), "at": at})

    async def forget(self, group: str, older_than: datetime) -> int:
        """Delete the group's ids seen before this time, in many short transactions. Returns how many."""
        total, deleted = 0, _DELETED_AT_ONCE
        while deleted == _DELETED_AT_ONCE:
            async with self._db.write() as connection:
                result = await connection.execute(
                    self._forget, {"group": group, "before": older_than, "limit": _DELETED_AT_ONCE}
                )
            deleted = result.rowcount
            total += deleted
        return total

    def _list(self, ids: Iterable[str]) -> Any:
        return list(ids) if self._db.dialect == "postgresql" else orjson.dumps(list(ids)).decode()


def _with_times(sql: str, name: str) -> TextClause:
    return text(sql).bindparams(bindparam(name, type_=UTCDateTime()))
