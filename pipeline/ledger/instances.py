"""The heartbeat: a row for each running process, by which other processes see it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from pipeline.ledger.clean import clean_json
from pipeline.ledger.columns import UTCDateTime, utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.tables import Instance

__all__ = ["Instances"]

_LEFT = timedelta(hours=12)
"""As if its last sign of life were so old, a process is remembered that has stopped, for what it left open."""
_OPEN = timedelta(weeks=1)
"""So long a process that is gone is remembered for its open alerts: over a weekend nobody may be there to inherit."""


class Instances:
    """The table `instances`. Methods raise `Unavailable("database", …)` where the database can't be reached.

    Times are taken from PostgreSQL's clock, so that hosts whose clocks differ agree on who is alive.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def beat(self, instance: Instance) -> None:
        """Write the process's row anew, with the time now as its `beat_at`."""
        kind: Any = postgresql.insert if self._db.dialect == "postgresql" else sqlite.insert
        values = instance.model_dump() | {"beat_at": self._now()}
        values |= {name: clean_json(values[name]) for name in ("stats", "sources")}  # errors may quote an event's text
        statement = kind(Instance).values(values)
        changed = {name: statement.excluded[name] for name in values if name != "id"}
        async with self._db.write() as connection:
            await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))

    async def alive(self, within: float = 5.0) -> list[Instance]:
        """The processes that gave a sign of life in the last `within` seconds, oldest first."""
        recent = col(Instance.beat_at) >= self._now(timedelta(seconds=within))
        return await self._db.fetch(
            Instance, select(Instance).where(recent).order_by(col(Instance.started_at), col(Instance.id))
        )

    async def remove(self, instance_id: str) -> None:
        """Remove a process's row, as it stops."""
        async with self._db.write() as connection:
            await connection.execute(delete(Instance).where(col(Instance.id) == instance_id))

    async def leave(self, instance_id: str, kind: str, alerts: dict[str, str]) -> None:
        """Keep of a process that stops only the alerts that it leaves open, for `inherit`."""
        values = {"stats": {"kind": kind, "alerts": alerts}, "sources": {}, "beat_at": self._now(_LEFT)}
        async with self._db.write() as connection:
            await connection.execute(update(Instance).where(col(Instance.id) == instance_id).values(values))

    async def inherit(self, pipeline: str, kind: str, silent: float) -> dict[str, str]:
        """Take over the open alerts of processes that have stopped, or gave no sign of life for so many seconds.

        Only one process gets each. Returns when each began, by its name.
        """
        longest = (_LEFT - timedelta(hours=1)).total_seconds()
        gone = col(Instance.beat_at) < self._now(timedelta(seconds=min(silent, longest)))
        seen = await self._db.fetch(Instance, select(Instance).where(col(Instance.pipeline) == pipeline, gone))
        rows = [row for row in seen if row.stats.get("kind") == kind and row.stats.get("alerts")]
        if not rows:
            return {}
        alerts: dict[str, str] = {}
        async with self._db.write() as connection:
            for row in rows:
                result = await connection.execute(delete(Instance).where(col(Instance.id) == row.id, gone))
                alerts |= row.stats["alerts"] if result.rowcount else {}
        return alerts

    async def purge(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Remove the rows of processes that gave no sign of life for so long. Returns how many.

        Those with open alerts are kept for a week: their heirs may start later than the process that purges, which
        need not even be one of their pipeline.
        """
        beat_at, alerts = col(Instance.beat_at), col(Instance.stats)["alerts"].as_string()
        old = beat_at < self._now(older_than), or_(alerts.is_(None), beat_at < self._now(_OPEN))
        async with self._db.write() as connection:
            result = await connection.execute(delete(Instance).where(*old))
        return result.rowcount

    def _now(self, ago: timedelta = timedelta()) -> ColumnElement[datetime]:
        if self._db.dialect == "postgresql":
            return func.clock_timestamp(type_=UTCDateTime()) - ago
        return literal(utcnow() - ago, UTCDateTime())
