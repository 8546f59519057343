"""The outbox's publisher: messages that jobs left go to the broker once their transaction is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Table, Text, and_, bindparam, cast, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.connectors import Connector, MessageRefused, Outgoing
from pipeline.errors import PipelineError, Unavailable
from pipeline.ledger.clean import clean_text
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import OutboxMessage

__all__ = ["OutboxPublisher"]

_BATCH: Final = 500
_BYTES: Final = 4 * 2**20
"""About how many bytes a batch has at most; one message is always taken."""
_LOOK: Final = 100
"""How many messages are weighed first, and then twice as many as those: PostgreSQL takes 10 ms to weigh a mebibyte of
headers."""
_PART: Final = 2**19
"""About how many bytes are published at a time: what a slow line has carried of a batch need not go again."""
_PATIENCE: Final = 8.0
"""Seconds that a broker may take for a batch; PostgreSQL ends a transaction that is idle for 10."""
_LOCK: Final = 0x6F75_7462
"""With the pipeline's name, the key of PostgreSQL's advisory lock under which one process of each pipeline publishes at
a time: so the order is kept, and no pipeline waits for the broker of another one."""
_TABLE: Final[Table] = OutboxMessage.__table__  # type: ignore[attr-defined]
_SIZE: Final = (func.length(_TABLE.c.body) + func.length(cast(_TABLE.c.headers, Text))).label("size")
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
        self._lock = text(f"SELECT pg_try_advisory_xact_lock({_LOCK}, hashtext(:pipeline))").bindparams(
            bindparam("pipeline", pipeline, Text)
        )
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
        return 0.0 if any(results) else None

    async def _outcome(self, stream: str) -> bool | PipelineError:
        """Whether there are more messages to publish; the error keeps no other stream back."""
        try:
            return await self._publish(stream)
        except PipelineError as error:
            self._created.discard(stream)
            return error

    async def _publish(self, stream: str) -> bool:
        """Publish a batch; what the broker has confirmed is done with, whatever became of the rest."""
        done = _Done()
        async with self._turn() as held:
            if held is None:
                return False
            async with self._reading(held) as connection:
                waiting, more = await self._batch(connection, stream)
            if not waiting:
                return False
            error = await self._send(stream, waiting, done)
            if len(done):
                async with self._writing(held) as connection:
                    await done.write(connection)
        if error is not None:
            raise error
        return more or len(done) < len(waiting)

    async def _batch(self, connection: AsyncConnection, stream: str) -> tuple[Sequence[Any], bool]:
        """The next messages, as many as may be loaded together, and whether there may be others behind them."""
        query = select(_TABLE.c.id).where(self._waiting, _TABLE.c.stream == stream).order_by(_TABLE.c.id)
        ids = (await connection.execute(query.limit(_BATCH))).scalars().all()
        count = total = 0
        while count < len(ids) and total <= _BYTES:
            some = ids[count : 2 * count + _LOOK]
            rows = await connection.execute(select(_TABLE.c.id, _SIZE).where(_TABLE.c.id.in_(some)))
            sizes = {row.id: row.size for row in rows}
            for id_ in some:
                total += sizes.get(id_, 0)
                if total > _BYTES and count:
                    break
                count += 1
        taken = select(_TABLE, _SIZE).where(_TABLE.c.id.in_(ids[:count])).order_by(_TABLE.c.id)
        return (await connection.execute(taken)).all() if count else [], count < len(ids) or count == _BATCH

    async def _send(self, stream: str, rows: Sequence[Any], done: _Done) -> Exception | None:
        """Publish part by part. Returns why not all went; None also where a slow line has carried only some."""
        clock = asyncio.get_running_loop().time
        end = clock() + _PATIENCE
        try:
            async with asyncio.timeout_at(end):
                await self._connector.connect()
                if self._create and stream not in self._created:
                    await self._connector.create_stream(stream)
                    self._created.add(stream)
                for part in _parts(rows):
                    begin = clock()
                    await self._publish_what_fits(stream, part, done)
                    if 2 * clock() - begin > end:  # another one would not be confirmed in time, and go twice
                        break
        except TimeoutError:
            return None if len(done) else Unavailable("broker", f"no confirmation from {stream} within {_PATIENCE:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, what was confirmed must not go again
            return error
        return None

    async def _publish_what_fits(self, stream: str, rows: Sequence[Any], done: _Done) -> None:
        """Publish by halves where one of the messages can't be: in their order, without the one at fault."""
        try:
            await self._connector.publish(stream, [_outgoing(row) for row in rows])
        except MessageRefused as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                await self._publish_what_fits(stream, rows[:middle], done)
                await self._publish_what_fits(stream, rows[middle:], done)
                return
            _log.error("outbox: the message %s is never published to %s: %s", rows[0].message_id, stream, error)
            done.refused[rows[0].id] = clean_text(str(error))
        else:
            done.sent += [row.id for row in rows]

    # One process at a time: on PostgreSQL by a lock that lasts as long as one transaction, in which all of it happens;
    # on SQLite a transaction would keep every other writer out while the broker is asked.

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[AsyncConnection | Database | None]:
        if self._database.dialect != "postgresql":
            yield self._database
            return
        async with self._database.write() as connection:
            locked = await connection.execute(self._lock)
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


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    begin = size = 0
    for at, row in enumerate(rows):
        if size and size + row.size > _PART:
            yield rows[begin:at]
            begin, size = at, 0
        size += row.size
    yield rows[begin:]


class _Done:
    """What became of a batch's messages.

    Attributes:
        sent: The ids of those that the broker has confirmed.
        refused: Those that are refused whatever is tried, with the reason.
    """

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.refused: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.sent) + len(self.refused)

    async def write(self, connection: AsyncConnection) -> None:
        """Take the ones out of the outbox, and leave the others there with the reason."""
        if self.sent:
            await connection.execute(delete(_TABLE).where(_TABLE.c.id.in_(self.sent)))
        if self.refused:
            await connection.execute(_PARK, [{"at": id_, "why": why} for id_, why in self.refused.items()])
