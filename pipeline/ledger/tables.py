"""The ledger's own tables, as SQLModel classes; no column's name needs quoting in SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, Index, LargeBinary, MetaData, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import NAMING, big_id, json_type, utcnow

__all__ = ["TABLES", "DeadLetter", "Instance", "OperatorAction", "OutcomeRow", "ProgressRow", "SeenEvent"]

WAITING: Final = "state IN ('open', 'redriving') AND order_known AND overtaken_by IS NULL AND ordering_key IS NOT NULL"
"""Dead letters that a later event of their key may overtake. As text: a partial index serves no bound values."""


class LedgerModel(SQLModel):
    """The base of the ledger's tables: metadata of their own, apart from plugins' tables."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


def _group(**options: Any) -> Any:
    return _text(sa_column_kwargs={"name": "consumer_group"}, **options)


class ProgressRow(LedgerModel, table=True):
    """How far one consumer group has come on one stream, and which runner owns it.

    Attributes:
        group: The consumer group.
        stream: The stream.
        source: The source's name in `pipeline.toml`, for people.
        prefix: Every message up to this offset is finished; -1 before the first.
        chunk_timestamp: The timestamp of the message at `prefix`, in milliseconds; of the one behind it where none is
            finished yet.
        incarnation: Counts how often the stream was deleted and created anew, or lost its end.
        ahead: Finished ranges beyond the prefix, as JSON: ``[[first, last], …, [first, last, timestamp of the last]]``.
        handled: Messages that ended as handled, since the beginning; likewise the three after it.
        owner: The runner that reads this source now; None where none does.
        epoch: Counts the owners; each commit is conditional on it.
        beat: Changes as long as the owner lives.
        token: The last commit; None where there never was one.
        updated_at: When the owner last wrote.
    """

    __tablename__ = "progress"

    group: str = _group(primary_key=True)
    stream: str = _text(primary_key=True)
    source: str = _text()
    prefix: int = Field(default=-1, sa_type=BigInteger)
    chunk_timestamp: int | None = Field(default=None, sa_type=BigInteger)
    incarnation: int = 0
    ahead: str = _text(default="[]")
    handled: int = Field(default=0, sa_type=BigInteger)
    filtered: int = Field(default=0, sa_type=BigInteger)
    dead: int = Field(default=0, sa_type=BigInteger)
    duplicate: int = Field(default=0, sa_type=BigInteger)
    owner: str | None = _text(default=None)
    epoch: int = Field(default=0, sa_type=BigInteger)
    beat: int = Field(default=0, sa_type=BigInteger)
    token: str | None = _text(default=None)
    updated_at: datetime = Field(default_factory=utcnow)


class DeadLetter(LedgerModel, table=True):
    """One route of one message that failed for good, with the message as it came.

    Attributes:
        message_timestamp: When the broker took the message, in milliseconds since 1970 (UTC).
        route: The route that failed; empty where the message reached none.
        stage: The stage that failed; empty where the message reached none.
        kind: A short word for grouping.
        attempts: How often the stage was tried, in all runs.
        body: The message's bytes exactly; the raw frame where it could not be decoded.
        state: ``open``, until someone deals with it: then ``redriving``, and ``redriven`` when that has succeeded; or
            ``discarded``.
        original: What id, headers and the like were before they were cleaned, as JSON; None where they are the same.
        key: The event's ordering key on the route, cleaned; None where it has none, or it is not known.
        order_known: Whether `overtaken_by` tells of every later event of the key.
        overtaken_by: The id of the first later event of the key that was handled on the route in the meantime.
        job: The asynchronous stage whose job failed; empty where the message failed in its source.
        closing: What a failed ``finally`` stage was told: ``outcome`` and ``error``.
        fingerprint: The same for all that failed in the same way; the group's id.
        redrives: How often it was run again.
        request: The last request to run it again, or to discard it.
        from_start: Whether it is to be run from the route's start, and not from the stage that failed.
        forced: Whether it is to be run although a later event of its key was handled.
        outcome: What came of it when it was redriven: ``handled`` or ``filtered``; ``left`` while it is redriving and
            was left as a job of its asynchronous stage.
        place: Where in the code it failed: file and function; None where no handler did, or it is not known.
        traceback: The last frames, of an error that nobody expected.
    """

    __tablename__ = "dead_letters"
    __table_args__ = (
        UniqueConstraint(
            "consumer_group", "stream", "incarnation", "message_offset", "route", "job", name="uq_dead_letters_message"
        ),
        Index("ix_dead_letters_fingerprint", "fingerprint"),
        Index("ix_dead_letters_request", "request"),
        Index("ix_dead_letters_redriving", "consumer_group", "stream", "incarnation", "message_offset",
              sqlite_where=text("state = 'redriving'"), postgresql_where=text("state = 'redriving'")),
        Index("ix_dead_letters_waiting", "consumer_group", "stream", "route", "ordering_key",
              sqlite_where=text(WAITING), postgresql_where=text(WAITING)),
    )  # fmt: skip

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    source: str = _text()
    group: str = _group()
    stream: str = _text()
    incarnation: int
    offset: int = Field(sa_type=BigInteger, sa_column_kwargs={"name": "message_offset"})
    message_timestamp: int = Field(sa_type=BigInteger)
    event_id: str = _text()
    routing_key: str | None = _text(default=None)
    route: str = _text()
    stage: str = _text()
    kind: str = _text()
    reason: str = _text()
    attempts: int
    body: bytes = Field(sa_type=LargeBinary)
    headers: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())
    content_type: str | None = _text(default=None)
    first_at: datetime
    last_at: datetime
    state: str = _text(default="open")
    created_at: datetime = Field(default_factory=utcnow)
    original: str | None = _text(default=None)
    key: str | None = _text(default=None, sa_column_kwargs={"name": "ordering_key"})
    order_known: bool = False
    overtaken_by: str | None = _text(default=None)
    job: str = _text(default="")
    closing: dict[str, Any] | None = Field(default=None, sa_type=json_type())
    fingerprint: str = _text(default="")
    redrives: int = 0
    request: str | None = _text(default=None)
    from_start: bool = False
    forced: bool = False
    outcome: str | None = _text(default=None)
    place: str | None = _text(default=None)
    traceback: str | None = _text(default=None)


class OperatorAction(LedgerModel, table=True):
    """What somebody did by a command, and what came of it; kept for good.

    Attributes:
        at: When.
        actor: Who: a person's name; for what came of it, the runner or worker.
        action: What: ``redrive`` or ``discard``; and what came of a redrive: ``redriven``, ``failed`` or ``refused``;
            ``left`` where it was left as a job, of which that is told when it ends.
        dead_letter: The dead letter's id; None where it is about something else.
        request: The same for all that was asked for at once.
        reason: Why.
        details: More of it, as JSON.
    """

    __tablename__ = "operator_actions"
    __table_args__ = (
        Index("ix_operator_actions_dead_letter", "dead_letter"),
        Index("ix_operator_actions_request", "request"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    at: datetime = Field(default_factory=utcnow)
    actor: str = _text()
    action: str = _text()
    dead_letter: int | None = Field(default=None, sa_type=BigInteger)
    request: str | None = _text(default=None)
    reason: str = _text(default="")
    details: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())


class SeenEvent(LedgerModel, table=True):
    """An event that a group has finished: its id is remembered, so that a repeat is dropped."""

    __tablename__ = "seen_events"
    __table_args__ = (Index("ix_seen_events_age", "consumer_group", "seen_at"),)

    group: str = _group(primary_key=True)
    event_id: str = _text(primary_key=True)
    seen_at: datetime


class OutcomeRow(LedgerModel, table=True):
    """The journal: what became of one message on one route, where the source has ``journal = true``."""

    __tablename__ = "outcomes"
    __table_args__ = (
        Index("ix_outcomes_message", "consumer_group", "stream", "message_offset"),
        Index("ix_outcomes_event_id", "event_id"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    group: str = _group()
    stream: str = _text()
    incarnation: int
    offset: int = Field(sa_type=BigInteger, sa_column_kwargs={"name": "message_offset"})
    event_id: str = _text()
    routing_key: str | None = _text(default=None)
    route: str = _text()
    outcome: str = _text()
    reason: str = _text(default="")
    at: datetime


class Instance(LedgerModel, table=True):
    """The heartbeat of a running process, written every second.

    Attributes:
        id: Names the process, for as long as it lives.
        pipeline: The pipeline's name.
        stats: The figures of the whole process.
        sources: The figures of each source, by name.
    """

    __tablename__ = "instances"

    id: str = _text(primary_key=True)
    pipeline: str = _text()
    host: str = _text()
    pid: int
    started_at: datetime
    beat_at: datetime = Field(default_factory=utcnow)
    stats: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())
    sources: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())


TABLES: tuple[type[SQLModel], ...] = (ProgressRow, DeadLetter, SeenEvent, OutcomeRow, Instance, OperatorAction)
"""All of them, for the core's migrations."""
