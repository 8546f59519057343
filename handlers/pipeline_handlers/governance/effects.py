"""What one transaction of governance leaves: rows and statements, jobs and messages, written in that order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pipeline.jobs import outbox
from pipeline_handlers.governance.journal import changes_among

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from pipeline.connectors import Outgoing
    from pipeline.jobs.contract import NewJob, Settlement
    from pipeline.ledger.rows import RowWriter
    from pipeline_handlers.governance.contract import Step

__all__ = ["Effects"]


@dataclass(slots=True)
class Effects:
    """Collected while a transaction decides what becomes of executions.

    Attributes:
        rows: Rows to insert.
        statements: Statements that follow them.
        jobs: Jobs to leave.
        messages: Stream and message, to be published after the commit.
        withdrawn: Ids of jobs that are not wanted any more.
        changes: What `write` has written of changes of state, to be logged after the commit; None where nobody asks.
    """

    rows: list[Any] = field(default_factory=list)
    statements: list[Any] = field(default_factory=list)
    jobs: list[NewJob] = field(default_factory=list)
    messages: list[tuple[str, Outgoing]] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    changes: list[Mapping[str, Any]] | None = None

    def take(self, step: Step) -> None:
        """Add what a step has left."""
        self.rows += step.rows
        self.statements += step.statements
        self.jobs += step.jobs
        self.messages += step.messages

    async def write(self, connection: AsyncConnection, writer: RowWriter) -> None:
        """Write the rows, in bulk, then the statements; they are gone from here then."""
        rows, self.rows = self.rows, []
        statements, self.statements = self.statements, []
        if self.changes is not None:
            self.changes += changes_among(rows)
        await writer.write_rows(connection, rows)
        for statement in statements:
            await connection.execute(statement)

    def hand_to(self, settlement: Settlement) -> None:
        """Leave jobs and messages with the settlement of the jobs that this is about."""
        for job_id in self.withdrawn:
            settlement.withdraw(job_id)
        for job in self.jobs:
            settlement.enqueue(job)
        for stream, message in self.messages:
            settlement.publish(stream, message)

    async def finish(
        self, connection: AsyncConnection, dialect: str, writer: RowWriter, now: datetime, pipeline: str
    ) -> None:
        """Write all of it in a transaction that settles no job."""
        await self.write(connection, writer)
        if self.withdrawn:
            await outbox.withdraw(connection, self.withdrawn)
        if self.jobs:
            await outbox.enqueue(connection, dialect, self.jobs, now, pipeline=pipeline)
        for stream, messages in groupby(self.messages, key=itemgetter(0)):
            of_stream = [message for _, message in messages]
            await outbox.publish(connection, dialect, stream, of_stream, now, pipeline=pipeline)
