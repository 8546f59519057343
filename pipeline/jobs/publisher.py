"""The outbox's publisher: messages that jobs left go to the broker once their transaction is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Table, and_, bindparam, delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.connectors import Connector, MessageRefused, Outgoing
from pipeline.errors import PipelineError, Unavailable
from pipeline.ledger.clean import clean_text
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import OutboxMessage

__all__ = ["OutboxPublisher"]

_BATCH: Final = 500
_PATIENCE: Final = 8.0
"""Seconds that a broker may take for a batch; PostgreSQL ends a transaction that is idle for 10."""
_LOCK: Final = 0x6F75_7462_6F78_0001
"""The key of PostgreSQL's advisory lock under which one process publishes at a time: so the order is kept."""
_TABLE: Final[Table] = OutboxMessage.__table__  # type: ignore[attr-defined]
_PARK: Final = update(_TABLE).where(_TABLE.c.id == bindparam("at")).values(error=bindparam("why"))
_log = logging.getLogger("pipeline.jobs")


class OutboxPublisher:
    """Publishes a pipeline's outbox, each stream's messages in the order in which they were left.

    A message that the broker takes on no try is passed by, and stays with the reason in its column `error`.

    A message whose confirmation was lost is published again, with the same id, by which readers drop it. On SQLite two
    processes that publish at the same moment may do so, too.

    Args:
        database: Where the outbox is.
        connector: The broker; connected when there is something to publish.
        pipeline: Whose messages.
        create_streams: Whether to create streams that are not there.
    """

    def __init__(
        self, database: Database, connector: Connector, *, pipeline: str, create_streams: bool = False
    ) -> None:
        self._database = database
        self._connector = connector
        self._create = create_streams
        self._created: set[str] = set()
        self._waiting = and_(_TABLE.c.pipeline == pipeline, _TABLE.c.error.is_(None))

    async def round(self) -> float | None:
        """Publish what is there. Returns 0 where there is more, else None.

        Raises:
            PipelineError: The database, or the broker for at least one stream, can't be reached or refuses.
        """
        async with self._database.read() as connection:
            streams = (
                (await connection.execute(select(_TABLE.c.stream).where(self._waiting).distinct())).scalars().all()
            )
        if not streams:
            return None
        results = [await self._outcome(stream) for stream in sorted(streams)]
        for result in results:
            if isinstance(result, PipelineError):
                raise result
        return 0.0 if _BATCH in results else None

    async def _outcome(self, stream: str) -> int | PipelineError:
        """How many messages were published; the error keeps no other stream back."""
        try:
            return await self._publish(stream)
        except PipelineError as error:
            self._created.discard(stream)
            return error

    async def _publish(self, stream: str) -> int:
        rows = select(_TABLE).where(self._waiting, _TABLE.c.stream == stream).order_by(_TABLE.c.id).limit(_BATCH)
        async with self._turn() as held:
            if held is None:
                return 0
            async with self._reading(held) as connection:
                waiting = (await connection.execute(rows)).all()
            if not waiting:
                return 0
            refused = await self._send(stream, waiting)
            async with self._writing(held) as connection:
                sent = [row.id for row in waiting if row.id not in refused]
                await connection.execute(delete(_TABLE).where(_TABLE.c.id.in_(sent)))
                if refused:
                    await connection.execute(_PARK, [{"at": id_, "why": why} for id_, why in refused.items()])
        return len(waiting)

    async def _send(self, stream: str, rows: Sequence[Any]) -> dict[int, str]:
        """Publish messages. Returns those that are refused whatever is tried, with the reason."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._connector.connect()
                if self._create and stream not in self._created:
                    await self._connector.create_stream(stream)
                    self._created.add(stream)
                return await self._publish_what_fits(stream, rows)
        except TimeoutError:
            raise Unavailable("broker", f"no confirmation from {stream} within {_PATIENCE:g} s") from None

    async def _publish_what_fits(self, stream: str, rows: Sequence[Any]) -> dict[int, str]:
        """Publish by halves where one of the messages can't be: in their order, without the one at fault."""
        try:
            await self._connector.publish(stream, [_outgoing(row) for row in rows])
        except MessageRefused as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                first = await self._publish_what_fits(stream, rows[:middle])
                return first | await self._publish_what_fits(stream, rows[middle:])
            _log.error("outbox: the message %s is never published to %s: %s", rows[0].message_id, stream, error)
            return {rows[0].id: clean_text(str(error))}
        return {}

    # One process at a time: on PostgreSQL by a lock that lasts as long as one transaction, in which all of it happens;
    # on SQLite a transaction would keep every other writer out while the broker is asked.

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[AsyncConnection | Database | None]:
        if self._database.dialect != "postgresql":
            yield self._database
            return
        async with self._database.write() as connection:
            locked = await connection.execute(text(f"SELECT pg_try_advisory_xact_lock({_LOCK})"))
            yield connection if locked.scalar_one() else None

    @asynccontextmanager
    async def _reading(self, held: AsyncConnection | Database) -> AsyncIterator[AsyncConnection]:
        if isinstance(held, AsyncConnection):
            yield held
        else:
            async with held.read() as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self, held: AsyncConnection | Database) -> AsyncIterator[AsyncConnection]:
        if isinstance(held, AsyncConnection):
            yield held
        else:
            async with held.write() as connection:
                yield connection


def _outgoing(row: Any) -> Outgoing:
    return Outgoing(bytes(row.body), row.routing_key, row.message_id, row.headers, row.content_type)
