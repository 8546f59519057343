"""The tables of jobs: those to be done, the runs that were, and messages that wait to be published."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import big_id, json_type, utcnow
from pipeline.ledger.tables import LedgerModel

__all__ = ["JOB_TABLES", "JobRow", "JobRun", "OutboxMessage"]


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


class JobRow(LedgerModel, table=True):
    """A job that is to be done, or is being done; it goes when it is over.

    Attributes:
        pipeline: The pipeline whose stage that is: several may share a database.
        stage: The stage whose handler runs it.
        state: ``queued`` or ``running``.
        failures: How many of its runs failed; more than 0 and `due_at` to come: it is backing off.
        lost: How many of its workers died on it.
        due_at: Not before this time.
        hinted_at: When the queue was last told of it; None where it was not yet.
        owner: The worker that runs it, as `owner_id` names it.
        claimed_until: When that worker counts as lost, unless it says that it lives.
        error: Why its last run failed.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_queue_state", "pipeline", "queue", "state", "due_at"),
        Index("ix_jobs_unhinted", "pipeline", "due_at",
              sqlite_where=text("hinted_at IS NULL AND state = 'queued'"),
              postgresql_where=text("hinted_at IS NULL AND state = 'queued'")),
        Index("ix_jobs_claimed", "claimed_until", sqlite_where=text("state = 'running'"),
              postgresql_where=text("state = 'running'")),
    )  # fmt: skip

    id: str = _text(primary_key=True)
    pipeline: str = _text()
    queue: str = _text()
    stage: str = _text()
    payload: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())
    state: str = _text(default="queued")
    failures: int = 0
    lost: int = 0
    due_at: datetime = Field(default_factory=utcnow)
    hinted_at: datetime | None = None
    owner: str | None = _text(default=None)
    claimed_until: datetime | None = None
    error: str | None = _text(default=None)
    created_at: datetime = Field(default_factory=utcnow)


class JobRun(LedgerModel, table=True):
    """One run of one job: what came of it; the last ones of each queue are kept.

    Attributes:
        run: 1 for the job's first run.
        state: ``completed`` or ``failed``.
        worker: The worker that ran it.
        error: Why it failed; None where it did not.
    """

    __tablename__ = "job_runs"
    __table_args__ = (Index("ix_job_runs_queue_state", "pipeline", "queue", "state", "id"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    pipeline: str = _text()
    job_id: str = _text()
    queue: str = _text()
    stage: str = _text()
    run: int
    state: str = _text()
    worker: str = _text()
    started_at: datetime
    ended_at: datetime
    error: str | None = _text(default=None)


class OutboxMessage(LedgerModel, table=True):
    """A message that was left to be published, until the broker has confirmed it.

    Attributes:
        pipeline: The pipeline that publishes it.
        error: Why the broker refuses this very message, which then stays for people to look at; None for all others.
    """

    __tablename__ = "outbox"
    __table_args__ = (UniqueConstraint("stream", "message_id", name="uq_outbox_message"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    pipeline: str = _text()
    stream: str = _text()
    message_id: str = _text()
    routing_key: str = _text()
    body: bytes = Field(sa_type=LargeBinary)
    headers: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())
    content_type: str | None = _text(default=None)
    created_at: datetime = Field(default_factory=utcnow)
    error: str | None = _text(default=None)


JOB_TABLES: tuple[type[SQLModel], ...] = (JobRow, JobRun, OutboxMessage)
"""All of them, for the core's migrations."""
