"""The outbox: jobs and messages that are left in the transaction of whatever causes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from pipeline.connectors import Outgoing
from pipeline.jobs.contract import NewJob
from pipeline.jobs.statements import ignoring_insert, listed, one_of
from pipeline.ledger.clean import clean_id
from pipeline.ledger.columns import utcnow
from pipeline.ledger.job_tables import JobRow, OutboxMessage
from pipeline.ledger.units import Row

__all__ = ["enqueue", "job_row", "job_values", "publish", "withdraw"]


def job_values(job: NewJob, now: datetime, pipeline: str) -> dict[str, Any]:
    """All columns of a new job's row.

    Args:
        job: The job; its `stage` must be given.
        now: The time that it is left at.
        pipeline: The pipeline that runs it.

    Raises:
        ValueError: The job names no stage.
    """
    if not job.stage:
        raise ValueError(f"the job {job.id!r} names no stage, so no handler would run it")
    return {
        "id": job.id,
        "pipeline": pipeline,
        "queue": job.queue,
        "stage": job.stage,
        "payload": dict(job.payload),
        "state": "queued",
        "failures": 0,
        "lost": 0,
        "due_at": now if job.due_at is None else job.due_at,
        "hinted_at": None,
        "owner": None,
        "claimed_until": None,
        "error": None,
        "created_at": now,
    }


def job_row(job: NewJob, now: datetime, pipeline: str) -> Row:
    """The row of a new job, for the rows of a unit; a job whose id is there already is left as it is.

    Raises `ValueError` where the job names no stage.
    """
    return Row(JobRow, job_values(job, now, pipeline), insert="ignore")


async def enqueue(
    connection: AsyncConnection, dialect: str, jobs: Iterable[NewJob], now: datetime | None = None, *, pipeline: str
) -> None:
    """Leave jobs in this transaction; those whose ids are there already are left as they are.

    Args:
        connection: The transaction.
        dialect: `Database.dialect`.
        jobs: The jobs, each with its stage.
        now: When they are left, by the database's clock; None for this process's.
        pipeline: The pipeline that runs them: `Setup.pipeline`.

    Raises:
        ValueError: A job names no stage.
    """
    at = now or utcnow()
    if rows := sorted((job_values(job, at, pipeline) for job in jobs), key=lambda values: str(values["id"])):
        await connection.execute(ignoring_insert(JobRow, dialect), rows)


async def withdraw(connection: AsyncConnection, ids: Iterable[str]) -> int:
    """Take jobs back, claimed or not; a worker that runs one finds that it is not held any more. Returns how many."""
    dialect = connection.dialect.name
    statement = delete(JobRow).where(one_of(col(JobRow.id), "ids", dialect))
    return (await connection.execute(statement, {"ids": listed(ids, dialect)})).rowcount


async def publish(
    connection: AsyncConnection,
    dialect: str,
    stream: str,
    messages: Iterable[Outgoing],
    now: datetime | None = None,
    *,
    pipeline: str,
) -> None:
    """Leave messages to be published to a stream once this is committed; one that waits already is left as it is.

    Args:
        connection: The transaction.
        dialect: `Database.dialect`.
        stream: The stream.
        messages: The messages.
        now: When they are left, by the database's clock; None for this process's.
        pipeline: The pipeline that publishes them: `Setup.pipeline`.
    """
    at = now or utcnow()
    if rows := [_message_values(stream, message, at, pipeline) for message in messages]:
        await connection.execute(ignoring_insert(OutboxMessage, dialect), rows)


def _message_values(stream: str, message: Outgoing, now: datetime, pipeline: str) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "stream": stream,
        "message_id": clean_id(message.id),
        "routing_key": message.routing_key,
        "body": message.body,
        "headers": dict(message.headers),
        "content_type": message.content_type,
        "created_at": now,
    }
