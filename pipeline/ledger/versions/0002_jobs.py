"""Jobs, their runs, and messages that wait to be published."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pipeline.ledger.columns import UTCDateTime, big_id, json_type

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create jobs, job runs and the outbox."""
    _jobs()
    _job_runs()
    _outbox()


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("payload", json_type(), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=False),
        sa.Column("hinted_at", UTCDateTime()),
        sa.Column("owner", sa.Text),
        sa.Column("claimed_until", UTCDateTime()),
        sa.Column("error", sa.Text),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_queue_state", "jobs", ["pipeline", "queue", "state", "due_at"])
    unhinted = sa.text("hinted_at IS NULL AND state = 'queued'")
    op.create_index(
        "ix_jobs_unhinted", "jobs", ["pipeline", "due_at"], sqlite_where=unhinted, postgresql_where=unhinted
    )
    running = sa.text("state = 'running'")
    op.create_index("ix_jobs_claimed", "jobs", ["claimed_until"], sqlite_where=running, postgresql_where=running)


def _job_runs() -> None:
    op.create_table(
        "job_runs",
        sa.Column("id", big_id(), nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_job_runs"),
    )
    op.create_index("ix_job_runs_queue_state", "job_runs", ["pipeline", "queue", "state", "id"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", big_id(), nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("headers", json_type(), nullable=False),
        sa.Column("content_type", sa.Text),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("stream", "message_id", name="uq_outbox_message"),
    )
