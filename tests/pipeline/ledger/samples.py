"""Tables, messages and units that the ledger's tests write."""

# No postponed annotations here: SQLModel can not read those of a relationship.

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, MetaData, String, func, select
from sqlmodel import Field, Relationship, SQLModel

from pipeline.connectors import Message
from pipeline.events import Outcome
from pipeline.ledger.columns import big_id, json_type
from pipeline.ledger.database import Database
from pipeline.ledger.units import Commit, Dead, JournalEntry, Progress, SourceKey, Unit

KEY = SourceKey("admin", "group-1", "stream.platform.admin")
NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class SampleModel(SQLModel):
    metadata: ClassVar[MetaData] = MetaData()


class Owner(SampleModel, table=True):
    __tablename__ = "sample_owners"

    name: str = Field(primary_key=True)


class Note(SampleModel, table=True):
    __tablename__ = "sample_notes"

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    tag: str | None = Field(default=None, sa_type=String(5))
    text: str | None = None
    number: int | None = Field(default=None, sa_type=BigInteger)
    payload: dict[str, Any] | None = Field(default=None, sa_type=json_type())
    name: str | None = Field(default=None, unique=True)
    owner_name: str | None = Field(default=None, foreign_key="sample_owners.name")
    state: str = "new"
    owner: Owner | None = Relationship()


def message(offset: int, body: bytes = b"{}", **fields: Any) -> Message:
    return Message(offset, 1_000 + offset, body, "admin.workflow.paused", **fields)


def unit(offset: int, *rows: Any, statements: Sequence[Any] = (), **fields: Any) -> Unit:
    options: dict[str, Any] = {"event_id": f"e{offset}", "outcome": Outcome.HANDLED} | fields
    sent = options.pop("message", message(offset))
    return Unit(sent, options.pop("event_id"), sent.routing_key, rows=rows, statements=statements, **options)


def dead(route: str = "route-1", reason: str = "no such workflow") -> Dead:
    return Dead(route, "workflow-control", "not_found", reason, 1, NOON, NOON)


def journal(route: str = "route-1", outcome: Outcome = Outcome.HANDLED) -> JournalEntry:
    return JournalEntry(route, outcome)


def commit_of(*units: Unit, prefix: int | None = None) -> Commit:
    """Those units, and a prefix that ends with the last of them."""
    end = units[-1].message.offset if prefix is None else prefix
    counts = {outcome: sum(unit.outcome is outcome for unit in units) for outcome in Outcome}
    return Commit(Progress(end, 1_000 + end), counts, list(units))


async def count(db: Database, table: type[Any]) -> int:
    return (await db.fetch(int, select(func.count()).select_from(table)))[0]


async def notes(db: Database) -> list[Note]:
    return await db.fetch(Note, select(Note).order_by(Note.id))
