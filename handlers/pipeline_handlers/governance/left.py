"""What workflows left for people, tasks and notifications: looked at, and done or read, each told in the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from sqlalchemy import func, select, update
from sqlmodel import col

from pipeline.errors import UserError
from pipeline_handlers.governance.audit import audit_row
from pipeline_handlers.governance.records import EXECUTIONS
from pipeline_handlers.governance.steering import Steering
from pipeline_handlers.governance.tables import Notification, Task

if TYPE_CHECKING:
    from pipeline.jobs.clock import Clock
    from pipeline.ledger.database import Database

__all__ = ["Notifications", "Tasks"]

RowT = TypeVar("RowT", Task, Notification)
Filters: TypeAlias = Mapping[str, str | None]


class Left(Generic[RowT]):
    """The rows of one of these tables, of all governance stages.

    Methods raise `Unavailable("database", …)` where the database can't be reached.

    Args:
        database: The pipeline's database.
        clock: The time, for tests; by default the database's.
        pipeline: The pipeline's name.

    Class attributes:
        table: The table.
        what: What a row is, in a word.
        filters: What rows can be chosen by, and the columns that must have the value.
        known: The values of those columns that have few.
        ends: The status that `_end` changes, and to which.
    """

    table: ClassVar[Any]
    what: ClassVar[str]
    filters: ClassVar[Mapping[str, Any]]
    known: ClassVar[Mapping[str, tuple[str, ...]]]
    ends: ClassVar[tuple[str, str]]

    def __init__(self, database: Database, clock: Clock | None = None, *, pipeline: str) -> None:
        self._database = database
        self._steering = Steering(database, clock, pipeline=pipeline)

    async def list(self, limit: int = 50, **filters: str | None) -> list[RowT]:
        """The newest first.

        Args:
            limit: How many at most.
            filters: `filters` → the value that it must have; None does not filter.

        Raises:
            UserError: A filter, or its value, is unknown.
        """
        statement = select(self.table).where(*self._conditions(filters)).order_by(col(self.table.id).desc())
        found: list[RowT] = await self._database.fetch(self.table, statement.limit(limit))
        return found

    async def count(self, **filters: str | None) -> int:
        """How many there are; filters as for `list`."""
        statement = select(func.count()).select_from(self.table).where(*self._conditions(filters))
        return (await self._database.fetch(int, statement))[0]

    async def _end(self, id_: int, actor: str | None) -> bool:
        """Change the status of one, and audit it; False where it had come to that before."""
        columns, (before, after) = self.table.__table__.c, self.ends
        async with self._steering.change() as change:
            one = select(self.table.__table__).where(columns.id == id_).with_for_update()
            row = (await change.connection.execute(one)).one_or_none()
            if row is None:
                raise UserError(f"there is no {self.what} {id_}: 'pipeline {self.what}s list' shows them")
            if row.status == after:
                return False
            if row.status != before:
                raise UserError(f"the {self.what} {id_} is {row.status}: only one that is {before} can become {after}")
            await change.connection.execute(update(self.table.__table__).where(columns.id == id_).values(status=after))
            record = select(EXECUTIONS).where(EXECUTIONS.c.id == row.execution_id)
            if (execution := (await change.connection.execute(record)).one_or_none()) is not None:
                told = {f"{self.what}_id": id_}
                change.effects.rows.append(
                    audit_row(f"{self.what}_{after}", execution, now=change.now, user_id=actor, **told)
                )
            return True

    def _conditions(self, filters: Filters) -> Any:
        for name, value in filters.items():
            if name not in self.filters:
                raise UserError(f"{self.what}s can't be chosen by {name!r}; known are {', '.join(self.filters)}")
            if value is not None and value not in self.known.get(name, (value,)):
                raise UserError(f"no {self.what}'s {name} is {value!r}; it is one of {', '.join(self.known[name])}")
        return [self.filters[name] == value for name, value in filters.items() if value is not None]


class Tasks(Left[Task]):
    """The tasks that workflows gave people."""

    table = Task
    what = "task"
    filters: ClassVar[Mapping[str, Any]] = {
        "status": col(Task.status),
        "assignee": col(Task.assignee),
        "priority": col(Task.priority),
        "execution": col(Task.execution_id),
        "entity": col(Task.entity_type),
        "entity_id": col(Task.entity_id),
    }
    known: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "status": ("open", "done"),
        "priority": ("low", "normal", "high", "urgent"),
    }
    ends = ("open", "done")

    async def done(self, id_: int, *, actor: str | None = None) -> bool:
        """A task is done: False where it was before. Raises `UserError` where there is no such one."""
        return await self._end(id_, actor)


class Notifications(Left[Notification]):
    """The notifications in the app, and the records of those that were sent."""

    table = Notification
    what = "notification"
    filters: ClassVar[Mapping[str, Any]] = {
        "status": col(Notification.status),
        "recipient": col(Notification.recipient),
        "channel": col(Notification.channel),
        "execution": col(Notification.execution_id),
        "entity": col(Notification.entity_type),
        "entity_id": col(Notification.entity_id),
    }
    known: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "status": ("unread", "read", "sent"),
        "channel": ("in_app", "email", "webhook"),
    }
    ends = ("unread", "read")

    async def read(self, id_: int, *, actor: str | None = None) -> bool:
        """A notification is read: False where it was before. Raises `UserError` where there is none, or it was sent."""
        return await self._end(id_, actor)
