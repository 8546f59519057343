"""The tables of governance: entities, definitions, executions and their actions, and what actions leave."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, MetaData, Text, text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import NAMING, big_id, json_type, utcnow

__all__ = [
    "TABLES", "Approval", "ApprovalDecision", "Assignment", "Entity", "Notification", "Task", "WorkflowAction",
    "WorkflowDefinition", "WorkflowExecution",
]  # fmt: skip


class GovernanceModel(SQLModel):
    """The base of this plugin's tables: metadata of their own, apart from other plugins' tables."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


def _json(**options: Any) -> Any:
    return Field(sa_type=json_type(), **options)


class Entity(GovernanceModel, table=True):
    """What is known of a governed entity, from its events; kept as a tombstone when it is deleted.

    Attributes:
        version: Counts its changes, from 1.
        data: Its fields, as the newest event's ``new`` says (those that it does not name are kept).
        deleted_at: When it was deleted; None while it lives.
        event_id: The newest event that changed it.
        changed_at: When the broker took that event, in milliseconds since 1970: an older event changes nothing.
        status_event: The event, or the step of a workflow, that gave it its status, or deleted it.
        status_at: When that was, in milliseconds since 1970.
    """

    __tablename__ = "entities"

    entity_type: str = _text(primary_key=True)
    entity_id: str = _text(primary_key=True)
    version: int = 1
    status: str | None = _text(default=None)
    data: dict[str, Any] = _json(default_factory=dict)
    deleted_at: datetime | None = None
    event_id: str = _text()
    changed_at: int = Field(sa_type=BigInteger)
    status_event: str = _text(default="")
    status_at: int = Field(default=0, sa_type=BigInteger)
    created_at: datetime = Field(default_factory=utcnow)
    updated_at: datetime = Field(default_factory=utcnow)


class WorkflowDefinition(GovernanceModel, table=True):
    """One version of a workflow's definition: an execution keeps the one that it started with.

    Attributes:
        id: ``name@version``.
        version: The first 12 digits of the SHA-256 of its canonical JSON.
        body: The definition, as in ``pipeline.toml``.
    """

    __tablename__ = "workflow_definitions"

    id: str = _text(primary_key=True)
    name: str = _text()
    version: str = _text()
    entity: str = _text()
    body: dict[str, Any] = _json(default_factory=dict)
    created_at: datetime = Field(default_factory=utcnow)


class WorkflowExecution(GovernanceModel, table=True):
    """One run of a workflow, for one event.

    Attributes:
        id: A UUID made of the event and the workflow: the same event never makes two.
        workflow: The definition's name; `definition_id` is its version.
        trigger: ``on_create``, ``on_update`` or ``on_status_change``.
        stage: The stage that it belongs to.
        queue: Where its jobs go.
        status: ``in_progress``, then ``completed`` or ``failed`` (reference/governance-workflow-queue.md).
        phase: While in progress ``queued``, ``running``, ``waiting`` or ``backing_off``; ``cancelled`` where it failed
            because somebody cancelled it; else null.
        position: The index of the action that is next, or under way.
        actions: How many actions it has.
        event: The event that triggered it: id, routing_key, data, headers, time (ISO), source, stream, route.
        event_time: When the broker took the event, in milliseconds since 1970.
        event_offset: The event's place in its stream: which of one millisecond's events was first.
        causation: What led to it, oldest first: ``[{"workflow", "entity", "execution_id"}, …]``, itself included.
        error: Why it failed, or why its last try did.
    """

    __tablename__ = "workflow_executions"
    __table_args__ = (
        Index(None, "entity_type", "entity_id"),
        Index(None, "status", "created_at"),
        Index(None, "created_at"),
    )

    id: str = _text(primary_key=True)
    workflow: str = _text()
    definition_id: str = _text()
    entity_type: str = _text()
    entity_id: str = _text()
    actor_id: str | None = _text(default=None)
    trigger: str = _text()
    stage: str = _text()
    queue: str = _text()
    status: str = _text(default="in_progress")
    phase: str | None = _text(default="queued")
    position: int = 0
    actions: int = 0
    event_id: str = _text()
    event: dict[str, Any] = _json(default_factory=dict)
    event_time: int = Field(default=0, sa_type=BigInteger)
    event_offset: int = Field(default=0, sa_type=BigInteger)
    causation: list[dict[str, Any]] = _json(default_factory=list)
    error: str | None = _text(default=None)
    created_at: datetime = Field(default_factory=utcnow)
    started_at: datetime | None = None
    updated_at: datetime = Field(default_factory=utcnow)
    completed_at: datetime | None = None


class WorkflowAction(GovernanceModel, table=True):
    """One action of one execution: a row from its first try on.

    Attributes:
        position: Its index in the definition's list of actions.
        action: What it does: ``notify``, ``approval``, …
        status: ``running``, ``waiting``, ``completed``, ``failed`` (it may be tried again) or ``cancelled``.
        round: How often it was begun anew by ``executions retry``.
        attempts: How many tries have begun, in all rounds.
        failures: How many of this round's failed.
        history: One entry a failed try: ``{"attempt", "at", "error"}``.
        result: What it returned, a JSON object.
    """

    __tablename__ = "workflow_actions"

    execution_id: str = _text(primary_key=True)
    position: int = Field(primary_key=True)
    action: str = _text()
    status: str = _text()
    round: int = 0
    attempts: int = 1
    failures: int = 0
    history: list[dict[str, Any]] = _json(default_factory=list)
    started_at: datetime
    ended_at: datetime | None = None
    result: dict[str, Any] | None = _json(default=None)
    error: str | None = _text(default=None)


class Approval(GovernanceModel, table=True):
    """One step of an approval: who may decide, and what was decided.

    Attributes:
        id: ``<execution>/<position>/<step>``, with ``/<round>`` from the second round (after a retry) on.
        step: 0 for the first of the action's ordered steps.
        mode: ``any``, ``all`` or ``quorum``.
        quorum: How many must grant it.
        approvers: Who is entitled to decide.
        status: ``open``, ``granted``, ``rejected``, ``expired`` or ``cancelled``.
        escalated: How often a time-out passed it on to others.
        due_at: When its time-out fires; None for never.
    """

    __tablename__ = "approvals"
    __table_args__ = (Index(None, "execution_id"), Index(None, "status", "created_at"))

    id: str = _text(primary_key=True)
    execution_id: str = _text()
    position: int
    step: int = 0
    workflow: str = _text()
    entity_type: str = _text()
    entity_id: str = _text()
    mode: str = _text()
    quorum: int
    approvers: list[str] = _json(default_factory=list)
    status: str = _text(default="open")
    escalated: int = 0
    due_at: datetime | None = None
    created_at: datetime = Field(default_factory=utcnow)
    decided_at: datetime | None = None


class ApprovalDecision(GovernanceModel, table=True):
    """What one approver decided; once decided, it stays.

    Attributes:
        request_id: The event (or the command) that said so: its repeats change nothing.
    """

    __tablename__ = "approval_decisions"
    __table_args__ = (Index(None, "request_id"),)

    approval_id: str = _text(primary_key=True)
    approver: str = _text(primary_key=True)
    request_id: str = _text()
    decision: str = _text()
    comment: str | None = _text(default=None)
    decided_at: datetime = Field(default_factory=utcnow)


class Task(GovernanceModel, table=True):
    """A task that a workflow gave somebody. `key` is ``<execution>/<position>``, so that it is there once."""

    __tablename__ = "tasks"
    __table_args__ = (Index("uq_tasks_key", "key", unique=True), Index(None, "assignee", "status"))

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    key: str = _text()
    execution_id: str = _text()
    entity_type: str = _text()
    entity_id: str = _text()
    title: str = _text()
    description: str | None = _text(default=None)
    assignee: str | None = _text(default=None)
    priority: str = _text(default="normal")
    status: str = _text(default="open")
    due_at: datetime | None = None
    created_at: datetime = Field(default_factory=utcnow)


class Notification(GovernanceModel, table=True):
    """A notification: in the app, or the record of an e-mail or a webhook that was sent.

    Attributes:
        key: ``<execution>/<position>/<number>``: the idempotency key, the same at every try.
        channel: ``in_app``, ``email`` or ``webhook``.
        recipient: A person, an address or a URL.
        status: ``unread`` (in the app) or ``sent``.
    """

    __tablename__ = "notifications"
    __table_args__ = (Index("uq_notifications_key", "key", unique=True), Index(None, "recipient", "status"))

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    key: str = _text()
    execution_id: str = _text()
    entity_type: str = _text()
    entity_id: str = _text()
    channel: str = _text()
    recipient: str = _text()
    subject: str | None = _text(default=None)
    message: str = _text()
    status: str = _text()
    created_at: datetime = Field(default_factory=utcnow)


class Assignment(GovernanceModel, table=True):
    """Who an entity is assigned to, in one role; a new one of the same role ends the one before.

    Attributes:
        ended_at: When another took its place; None while it holds.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        Index("uq_assignments_key", "key", unique=True),
        Index("ix_assignments_current", "entity_type", "entity_id", "role",
              sqlite_where=text("ended_at IS NULL"), postgresql_where=text("ended_at IS NULL")),
    )  # fmt: skip

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    key: str = _text()
    execution_id: str = _text()
    entity_type: str = _text()
    entity_id: str = _text()
    role: str = _text()
    assignee: str = _text()
    created_at: datetime = Field(default_factory=utcnow)
    ended_at: datetime | None = None


TABLES: tuple[type[SQLModel], ...] = (
    Entity, WorkflowDefinition, WorkflowExecution, WorkflowAction, Approval, ApprovalDecision, Task, Notification,
    Assignment,
)  # fmt: skip
"""All of them, for the migrations."""
