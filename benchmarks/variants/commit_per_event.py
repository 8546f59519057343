"""The consumer that the reference describes, written by hand: an audit row and a commit for each event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from rstream import AMQPMessage, MessageContext
from sqlalchemy import JSON, DateTime
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.job import Job, Result
from benchmarks.meter import Meter
from benchmarks.variants.rstream_loop import consume

__all__ = ["run"]


class _Base(DeclarativeBase):
    """The base of the one table."""


class AuditLog(_Base):
    """The reference's table: its five columns, an id and a time, and no index but the key's."""

    __tablename__ = "audit_logs"

    id: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str]
    entity_type: Mapped[str]
    entity_id: Mapped[str | None]
    user_id: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


async def run(job: Job) -> Result:
    """Read by rstream; for each event a session, a row and a commit."""
    engine = create_async_engine(job.database_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    meter = Meter(job)

    async def on_message(message: AMQPMessage, context: MessageContext) -> None:
        if meter.done.is_set():
            return
        async with sessions() as session:
            session.add(_row(orjson.loads(message.body)))
            await session.commit()
        meter.tick()

    try:
        return await consume(job, meter, on_message)
    finally:
        await engine.dispose()


def _row(data: dict[str, Any]) -> AuditLog:
    return AuditLog(
        action="workflow_" + data["event_type"].split(".")[2],
        entity_type="bom_processing",
        entity_id=data.get("bom_id"),
        user_id=data["admin_id"],
        details={"workflow_id": data["workflow_id"]},
        created_at=datetime.now(UTC),
    )
