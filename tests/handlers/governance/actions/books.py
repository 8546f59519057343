"""A database of governance's tables, into which steps are written as the engine writes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pipeline.ledger.rows import RowWriter
from pipeline_handlers.governance.contract import EntityView, Step
from pipeline_handlers.governance.tables import Entity, GovernanceModel


class Books:
    """The tables, within one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._writer = RowWriter(connection.dialect.name)

    async def write(self, *steps: Step) -> None:
        """All rows, then all statements, as one transaction does."""
        await self._writer.write_rows(self._connection, [row for step in steps for row in step.rows])
        for step in steps:
            for statement in step.statements:
                await self._connection.execute(statement)

    async def know(self, view: EntityView) -> None:
        """An entity's record."""
        await self._connection.execute(
            insert(Entity).values(
                entity_type=view.type, entity_id=view.id, version=view.version, status=view.status,
                data=dict(view.data), event_id="event-0", changed_at=1,
            )
        )  # fmt: skip

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query finds."""
        return [dict(row._mapping) for row in await self._connection.execute(text(query))]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Books]:
    """New books in an empty database."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(GovernanceModel.metadata.create_all)
        yield Books(connection)
    await engine.dispose()
