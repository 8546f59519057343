"""The ledger's first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pipeline.ledger.columns import UTCDateTime, big_id, json_type

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create progress, dead letters, seen events, outcomes and instances."""
    _progress()
    _dead_letters()
    _seen_events()
    _outcomes()
    _instances()


def _progress() -> None:
    op.create_table(
        "progress",
        sa.Column("consumer_group", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("prefix", sa.BigInteger, nullable=False),
        sa.Column("chunk_timestamp", sa.BigInteger),
        sa.Column("incarnation", sa.Integer, nullable=False),
        sa.Column("ahead", sa.Text, nullable=False),
        sa.Column("handled", sa.BigInteger, nullable=False),
        sa.Column("filtered", sa.BigInteger, nullable=False),
        sa.Column("dead", sa.BigInteger, nullable=False),
        sa.Column("duplicate", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("token", sa.Text),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "stream", name="pk_progress"),
    )


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", big_id(), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("consumer_group", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Integer, nullable=False),
        sa.Column("message_offset", sa.BigInteger, nullable=False),
        sa.Column("message_timestamp", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("headers", json_type(), nullable=False),
        sa.Column("content_type", sa.Text),
        sa.Column("first_at", UTCDateTime(), nullable=False),
        sa.Column("last_at", UTCDateTime(), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
        sa.UniqueConstraint(
            "consumer_group", "stream", "incarnation", "message_offset", "route", name="uq_dead_letters_message"
        ),
    )


def _seen_events() -> None:
    op.create_table(
        "seen_events",
        sa.Column("consumer_group", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "event_id", name="pk_seen_events"),
    )
    op.create_index("ix_seen_events_age", "seen_events", ["consumer_group", "seen_at"])


def _outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("id", big_id(), nullable=False),
        sa.Column("consumer_group", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Integer, nullable=False),
        sa.Column("message_offset", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outcomes"),
    )
    op.create_index("ix_outcomes_message", "outcomes", ["consumer_group", "stream", "message_offset"])
    op.create_index("ix_outcomes_event_id", "outcomes", ["event_id"])


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("beat_at", UTCDateTime(), nullable=False),
        sa.Column("stats", json_type(), nullable=False),
        sa.Column("sources", json_type(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
