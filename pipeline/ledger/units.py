"""What one commit writes: units of work of finished messages, and the progress that they make."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.connectors import Message
from pipeline.events import Outcome

__all__ = ["Commit", "Dead", "JournalEntry", "Progress", "Range", "Row", "SourceKey", "Unit", "Unwritable"]

Range = tuple[int, int]
"""First and last offset of messages that are finished; offsets between them that were never delivered count as such."""


class Row(NamedTuple):
    """A new row as plain values, which `Context.add` takes instead of an instance of the table's class.

    Making an instance of a SQLModel class takes 50 µs, more than writing its row; this takes less than one.

    Attributes:
        table: The SQLModel class.
        values: Its fields by name; those left out, or None, get their default.
        insert: How it is written: None for a plain INSERT; ``"ignore"`` to leave a row that is there already as it is;
            or an ``INSERT … ON CONFLICT`` of SQLAlchemy's, built once and given with many rows, that all its rows
            share.
    """

    table: type[Any]
    values: Mapping[str, Any]
    insert: Any = None


@dataclass(frozen=True, slots=True)
class SourceKey:
    """What progress belongs to: a consumer group on a stream.

    Attributes:
        source: The source's name in `pipeline.toml`, for people.
        group: The consumer group.
        stream: The stream.
    """

    source: str
    group: str
    stream: str


@dataclass(slots=True)
class Dead:
    """Why one route of a message failed for good (or the message itself, before any route).

    Attributes:
        route: The route's name; empty where the message reached none.
        stage: The stage's name; empty where the message reached none.
        kind: A short word for grouping: the error's class, or `Reject.kind`.
        reason: The error's message.
        attempts: How often the stage was tried; 0 where none was.
        first_at: When it was tried first.
        last_at: When it was tried last.
    """

    route: str
    stage: str
    kind: str
    reason: str
    attempts: int
    first_at: datetime
    last_at: datetime


@dataclass(slots=True)
class JournalEntry:
    """The outcome of one route for one message, where the source has ``journal = true``."""

    route: str
    outcome: Outcome
    reason: str = ""


@dataclass(slots=True)
class Unit:
    """What one finished message leaves behind, written in one transaction with its progress.

    Attributes:
        message: The message, for its bytes where it is dead.
        event_id: The id that dedupe remembers; None where it remembers none.
        routing_key: The key it was routed by; None where it could not be decoded.
        outcome: The message's outcome, the worst of its routes.
        rows: SQLModel rows that handlers left, or `Row` values.
        statements: SQL statements that handlers left.
        dead: One for each route that failed for good.
        journal: One for each route, where the source keeps a journal.
    """

    message: Message
    event_id: str | None
    routing_key: str | None
    outcome: Outcome
    rows: Sequence[Any] = ()
    statements: Sequence[Any] = ()
    dead: Sequence[Dead] = ()
    journal: Sequence[JournalEntry] = ()


@dataclass(frozen=True, slots=True)
class Unwritable:
    """A unit whose own data the database refused: its rows are gone, and a dead letter stands for it.

    Attributes:
        unit: The unit as it was handed in; its outcome is what it would have been.
        dead: The dead letter that was written, of kind ``unwritable``.
    """

    unit: Unit
    dead: Dead


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source has come.

    Attributes:
        prefix: Every message up to this offset is finished; -1 before the first.
        timestamp: The chunk timestamp of the message at `prefix`, in milliseconds; None before the first.
        ahead: Finished ranges beyond the prefix, in order.
    """

    prefix: int = -1
    timestamp: int | None = None
    ahead: tuple[Range, ...] = ()


@dataclass(slots=True)
class Commit:
    """One transaction.

    Attributes:
        progress: The source's progress once this is committed.
        counts: Finished messages by outcome, `units` included.
        units: The messages that leave something to write; those that leave nothing are only counted.
        token: Identifies this commit in the database, so that one whose answer was lost is never written twice.
        unwritable: Set by the ledger: the units that its last try found impossible to write.
    """

    progress: Progress
    counts: Mapping[Outcome, int]
    units: list[Unit] = field(default_factory=list)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    unwritable: list[Unwritable] = field(default_factory=list, init=False, repr=False)
