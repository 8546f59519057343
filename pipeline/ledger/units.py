"""What one commit writes: units of work of finished messages, and the progress that they make."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import orjson

from pipeline.connectors import Message
from pipeline.events import Outcome
from pipeline.where import Where

__all__ = [
    "Commit", "Dead", "JournalEntry", "Overtaking", "Progress", "Range", "Redriven", "Routed", "Row", "Scope",
    "SourceKey", "Unit", "Unwritable",
]  # fmt: skip

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
        key: The event's ordering key on the route; None where it has none, or it is not known.
        order_known: Whether the source takes note of later events of the key that are handled, so that a redrive can
            tell whether it would come too late.
        overtaken_by: The id of a later event of the key that was handled before this is written.
        job: The asynchronous stage whose job failed; empty where the message failed in its source.
        closing: What a failed ``finally`` stage was told: ``outcome`` and ``error``; None for all other stages.
        where: Where in the code it failed; None where no handler did.
    """

    route: str
    stage: str
    kind: str
    reason: str
    attempts: int
    first_at: datetime
    last_at: datetime
    key: str | None = None
    order_known: bool = False
    overtaken_by: str | None = None
    job: str = ""
    closing: Mapping[str, Any] | None = None
    where: Where | None = None


@dataclass(slots=True)
class JournalEntry:
    """The outcome of one route for one message, where the source has ``journal = true``."""

    route: str
    outcome: Outcome
    reason: str = ""


class Routed(Protocol):
    """A route that a message took."""

    @property
    def name(self) -> str:
        """The route's name."""

    @property
    def ordered(self) -> bool:
        """Whether it keeps the events of a key in order."""


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
        routes: The routes that the message took, for the dead letters that stand for rows which can't be written.
        keys: Its ordering key on each of them.
        as_dead: That dead letter, but for its kind and reason, where there is no choice of routes.
    """

    message: Message
    event_id: str | None
    routing_key: str | None
    outcome: Outcome
    rows: Sequence[Any] = ()
    statements: Sequence[Any] = ()
    dead: Sequence[Dead] = ()
    journal: Sequence[JournalEntry] = ()
    routes: Sequence[Routed] = ()
    keys: Sequence[str | None] = ()
    as_dead: Dead | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What all units of one commit share.

    Attributes:
        key: Whose progress it is.
        incarnation: The stream's.
        at: When the commit began.
    """

    key: SourceKey
    incarnation: int
    at: datetime

    def event_id(self, unit: Unit) -> str:
        """The id that the unit's message goes by; built from its place where it has none."""
        return unit.event_id or unit.message.id or f"{self.key.stream}/{self.incarnation}/{unit.message.offset}"


@dataclass(frozen=True, slots=True)
class Unwritable:
    """A unit whose own data the database refused: its rows are gone, and a dead letter stands for it.

    Attributes:
        unit: The unit as it was handed in; its outcome is what it would have been.
        dead: The dead letter that was written, of kind ``unwritable``; the first, where there is one for each route.
    """

    unit: Unit
    dead: Dead


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source has come.

    Attributes:
        prefix: Every message up to this offset is finished; -1 before the first.
        timestamp: The chunk timestamp of the message at `prefix`, in milliseconds; of the one behind it where none is
            finished yet, in the stream or since it lost its end; None before the first has come.
        ahead: Finished ranges beyond the prefix, in order.
        newest: The chunk timestamp of the last message of `ahead`; None where there is none, or it is not known.
    """

    prefix: int = -1
    timestamp: int | None = None
    ahead: tuple[Range, ...] = ()
    newest: int | None = None

    @classmethod
    def stored(cls, prefix: int, timestamp: int | None, ahead: str) -> Progress:
        """The progress that a row holds."""
        ranges: list[list[int]] = orjson.loads(ahead)
        newest = ranges[-1][2] if ranges and len(ranges[-1]) > 2 else None
        return cls(prefix, timestamp, tuple((first, last) for first, last, *_ in ranges), newest)

    @property
    def ahead_text(self) -> str:
        """`ahead` as a row holds it, with `newest` in its last range."""
        if not self.ahead or self.newest is None:
            return orjson.dumps(self.ahead).decode()
        return orjson.dumps((*self.ahead[:-1], (*self.ahead[-1], self.newest))).decode()


class Overtaking(NamedTuple):
    """An event that was handled while an earlier one of its key is a dead letter of the same route.

    Attributes:
        route: The route's name.
        key: The ordering key.
        incarnation: The stream's.
        offset: Where the event lies.
        event_id: Its id.
    """

    route: str
    key: str
    incarnation: int
    offset: int
    event_id: str


@dataclass(slots=True)
class Redriven:
    """What became of a dead letter that was to be run again.

    Attributes:
        letter: The dead letter's id.
        redrives: How often it had been run again before; a result that is written twice is told by it.
        route: The route that the dead letter is about.
        incarnation: The stream's when the message was read.
        outcome: What came of it; None where it was refused, and nothing was run.
        reason: Why it was refused or filtered.
        dead: Why it is dead again.
        unit: What it leaves to be written; None for nothing.
        overtakings: The earlier events that it has overtaken.
        left: The asynchronous stage that was left as a job, where what comes of that is what comes of the redrive.
    """

    letter: int
    redrives: int
    route: str
    incarnation: int
    outcome: Outcome | None
    reason: str = ""
    dead: Dead | None = None
    unit: Unit | None = None
    overtakings: Sequence[Overtaking] = ()
    left: str = ""


@dataclass(slots=True)
class Commit:
    """One transaction.

    Attributes:
        progress: The source's progress once this is committed.
        counts: Finished messages by outcome, `units` included.
        units: The messages that leave something to write; those that leave nothing are only counted.
        overtakings: Dead letters of earlier events that these messages have overtaken.
        token: Identifies this commit in the database, so that one whose answer was lost is never written twice.
        unwritable: Set by the ledger: the units that its last try found impossible to write.
    """

    progress: Progress
    counts: Mapping[Outcome, int]
    units: list[Unit] = field(default_factory=list)
    overtakings: Sequence[Overtaking] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    unwritable: list[Unwritable] = field(default_factory=list, init=False, repr=False)
