"""The tables of governance: entities, definitions, executions and their actions, and what actions leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from pipeline.ledger.columns import UTCDateTime, big_id, json_type

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    _entities()
    _definitions_and_executions()
    _approvals()
    _tasks()
    _notifications()
    _assignments()


def downgrade() -> None:
    """Drop them."""
    for table in (
        "assignments", "notifications", "tasks", "approval_decisions", "approvals", "workflow_actions",
        "workflow_executions", "workflow_definitions", "entities",
    ):  # fmt: skip
        op.drop_table(table)


def _entities() -> None:
    op.create_table(
        "entities",
        _text("entity_type"),
        _text("entity_id"),
        sa.Column("version", sa.Integer(), nullable=False),
        _text("status", nullable=True),
        _json("data"),
        _time("deleted_at", nullable=True),
        _text("event_id"),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        _text("status_event"),
        sa.Column("status_at", sa.BigInteger(), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("entity_type", "entity_id", name="pk_entities"),
    )


def _definitions_and_executions() -> None:
    op.create_table(
        "workflow_definitions",
        _text("id"),
        _text("name"),
        _text("version"),
        _text("entity"),
        _json("body"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_workflow_definitions"),
    )
    op.create_table(
        "workflow_executions",
        *map(_text, ("id", "workflow", "definition_id", "entity_type", "entity_id")),
        _text("actor_id", nullable=True),
        *map(_text, ("trigger", "stage", "queue", "status")),
        _text("phase", nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("actions", sa.Integer(), nullable=False),
        _text("event_id"),
        _json("event"),
        sa.Column("event_time", sa.BigInteger(), nullable=False),
        sa.Column("event_offset", sa.BigInteger(), nullable=False),
        _json("causation"),
        _text("error", nullable=True),
        _time("created_at"),
        _time("started_at", nullable=True),
        _time("updated_at"),
        _time("completed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_workflow_executions"),
    )
    _index("workflow_executions", ["entity_type", "entity_id"])
    _index("workflow_executions", ["status", "created_at"])
    _index("workflow_executions", ["created_at"])
    op.create_table(
        "workflow_actions",
        _text("execution_id"),
        sa.Column("position", sa.Integer(), nullable=False),
        _text("action"),
        _text("status"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        _json("history"),
        _time("started_at"),
        _time("ended_at", nullable=True),
        _json("result", nullable=True),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("execution_id", "position", name="pk_workflow_actions"),
    )


def _approvals() -> None:
    op.create_table(
        "approvals",
        _text("id"),
        _text("execution_id"),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        *map(_text, ("workflow", "entity_type", "entity_id", "mode")),
        sa.Column("quorum", sa.Integer(), nullable=False),
        _json("approvers"),
        _text("status"),
        sa.Column("escalated", sa.Integer(), nullable=False),
        _time("due_at", nullable=True),
        _time("created_at"),
        _time("decided_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
    )
    _index("approvals", ["execution_id"])
    _index("approvals", ["status", "created_at"])
    op.create_table(
        "approval_decisions",
        *map(_text, ("approval_id", "approver", "request_id", "decision")),
        _text("comment", nullable=True),
        _time("decided_at"),
        sa.PrimaryKeyConstraint("approval_id", "approver", name="pk_approval_decisions"),
    )
    _index("approval_decisions", ["request_id"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", big_id(), nullable=False),
        *map(_text, ("key", "execution_id", "entity_type", "entity_id", "title")),
        _text("description", nullable=True),
        _text("assignee", nullable=True),
        _text("priority"),
        _text("status"),
        _time("due_at", nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
    )
    _unique_key("tasks")
    _index("tasks", ["assignee", "status"])


def _notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", big_id(), nullable=False),
        *map(_text, ("key", "execution_id", "entity_type", "entity_id", "channel", "recipient")),
        _text("subject", nullable=True),
        _text("message"),
        _text("status"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
    )
    _unique_key("notifications")
    _index("notifications", ["recipient", "status"])


def _assignments() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", big_id(), nullable=False),
        *map(_text, ("key", "execution_id", "entity_type", "entity_id", "role", "assignee")),
        _time("created_at"),
        _time("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_assignments"),
    )
    _unique_key("assignments")
    current = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_assignments_current",
        "assignments",
        ["entity_type", "entity_id", "role"],
        sqlite_where=current,
        postgresql_where=current,
    )


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, json_type(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UTCDateTime(), nullable=nullable)


def _index(table: str, columns: Sequence[str]) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)


def _unique_key(table: str) -> None:
    op.create_index(f"uq_{table}_key", table, ["key"], unique=True)
