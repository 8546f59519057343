"""The engine on a database of its own: executions are triggered, time is told by hand, and due jobs run."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from pipeline import Context, Event, Row
from pipeline.config.models import QueueTable
from pipeline.jobs import outbox
from pipeline.jobs.clock import Clock
from pipeline.jobs.executor import Executor
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JOB_TABLES, JobRow
from pipeline.ledger.rows import RowWriter
from pipeline_handlers.audit.tables import AuditLog
from pipeline_handlers.governance.actions import ACTIONS
from pipeline_handlers.governance.approvals import Approvals
from pipeline_handlers.governance.contract import WAIT, Action, Step
from pipeline_handlers.governance.definitions import Definitions
from pipeline_handlers.governance.engine import Engine
from pipeline_handlers.governance.events import read_change
from pipeline_handlers.governance.executions import Executions
from pipeline_handlers.governance.options import GovernanceOptions
from pipeline_handlers.governance.tables import TABLES, Notification, WorkflowAction, WorkflowExecution
from pipeline_handlers.governance.triggers import Triggers
from tests.handlers.governance.kit import STAGE, entity_event

PIPELINE = "p"
QUEUE = "governance:policy"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Script:
    """What scripted actions do at each try, by the action's name; past the end they succeed."""

    def __init__(self) -> None:
        self.plans: dict[str, deque[Any]] = {}
        self.tries: list[tuple[str, Step]] = []

    def plan(self, what: str, *steps: Any) -> None:
        """Each step: an error to raise, an awaitable's maker to await, a function of the step, or a result."""
        self.plans[what] = deque(steps)

    def next(self, what: str, step: Step) -> Any:
        self.tries.append((what, step))
        plan = self.plans.get(what)
        return plan.popleft() if plan else None

    def tried(self, what: str) -> int:
        return sum(name == what for name, _ in self.tries)


class WhatOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = "it"


def scripted(script: Script) -> tuple[type[Action[Any]], ...]:
    class Leave(Action[WhatOptions]):
        """Leaves a notification, by SQL alone."""

        name = "leave"
        Options = WhatOptions

        async def run(self, step: Step) -> Mapping[str, Any] | Any:
            planned = script.next(self.options.what, step)
            step.add(note(step, self.options.what))
            if isinstance(planned, Exception):
                raise planned
            return planned(step) if callable(planned) else planned

    class Call(Action[WhatOptions]):
        """Calls another system."""

        name = "call"
        Options = WhatOptions
        timeout = 5.0

        def is_external(self) -> bool:
            return True

        async def run(self, step: Step) -> Mapping[str, Any] | Any:
            planned = script.next(self.options.what, step)
            if isinstance(planned, BaseException):
                raise planned
            if callable(planned):
                planned = planned(step)
                return await planned if asyncio.iscoroutine(planned) else planned
            return planned

    class Ask(Action[WhatOptions]):
        """Begins something that somebody else will finish."""

        name = "ask"
        Options = WhatOptions

        async def run(self, step: Step) -> Any:
            script.next(self.options.what, step)
            return WAIT

    class Waits(Action[Any]):
        """Claims to leave rows only, and waits all the same."""

        name = "waits"

        async def run(self, step: Step) -> None:
            await asyncio.sleep(0)

    return Leave, Call, Ask, Waits


def note(step: Step, message: str, /, **more: Any) -> Row:
    values = {
        "key": step.key, "execution_id": step.execution_id, "entity_type": step.entity.type,
        "entity_id": step.entity.id, "channel": "in_app", "recipient": "bob", "message": message, "status": "unread",
    }  # fmt: skip
    return Row(Notification, values | more)


class Rig:
    """One stage's engine, and the clock that it goes by."""

    def __init__(self, database: Database, actions: Sequence[Mapping[str, Any]], queue: Mapping[str, Any]) -> None:
        self.database = database
        self.script = Script()
        self.now = START
        self.clock = Clock(lambda: self.now)
        self.writer = RowWriter(database.dialect)
        self.queue = QueueTable.model_validate(queue)
        self.events = 0
        self.kinds: tuple[type[Action[Any]], ...] = (*scripted(self.script), *ACTIONS)
        self.define(actions)

    def define(self, actions: Sequence[Mapping[str, Any]], *, log: bool = False, **keys: Any) -> None:
        """Load another configuration, as after a restart."""
        table = {"name": "review", "entity": "policy", "trigger": "on_create", "queue": QUEUE, "actions": actions}
        context = {"extensions": {"governance_actions": self.kinds}, "base": ""}
        self.options = GovernanceOptions.model_validate({"workflow": [table | keys], "log": log}, context=context)
        self.definitions = Definitions(self.options)
        self.triggers = Triggers(self.definitions, self.database.dialect)
        log_to = logging.getLogger("pipeline.test")
        self.engine = Engine(self.database, self.definitions, self.options, log_to, pipeline=PIPELINE)
        self.executions = Executions(self.database, self.clock, pipeline=PIPELINE)
        self.approvals = Approvals(
            self.database, self.definitions, self.options, self.clock, pipeline=PIPELINE, log=log_to
        )
        self.executor = self.worker()

    def worker(self, owner: str = "worker") -> Executor:
        return Executor(
            self.database, {STAGE: self.engine}, {QUEUE: self.queue}, owner=owner, pipeline=PIPELINE, clock=self.clock
        )

    async def trigger(self, count: int = 1, **data: Any) -> list[str]:
        """Make executions as events do, committed together; returns their ids."""
        made: list[str] = []
        rows: list[Any] = []
        jobs: list[Any] = []
        for _ in range(count):
            self.events += 1
            entity = {"entity_id": f"p-{self.events}", "new": {"status": "draft"}} | data
            event = entity_event("created", id=f"e-{self.events}", **entity)
            event.offset = self.events
            context = Context(STAGE, "route", "group", event.id)
            made += self.triggers.leave(event, read_change(event), context, self.now)
            rows += context.rows
            jobs += context.jobs
        async with self.database.write() as connection:
            await self.writer.write_rows(connection, rows)
            await outbox.enqueue(connection, self.database.dialect, jobs, self.now, pipeline=PIPELINE)
        return made

    async def feed(self, *events: Event) -> None:
        """Commit what events leave, one after the other, and run nothing."""
        for event in events:
            await self.feed_together(event)

    async def feed_together(self, *events: Event) -> None:
        """Commit what events leave in one transaction, and run nothing."""
        contexts = [Context(STAGE, "route", "group", event.id) for event in events]
        for event, context in zip(events, contexts, strict=True):
            self.triggers.leave(event, self.definitions.change_in(event), context, self.now)
        jobs = [job for context in contexts for job in context.jobs]
        async with self.database.write() as connection:
            await self.writer.write_rows(connection, [row for context in contexts for row in context.rows])
            await outbox.enqueue(connection, self.database.dialect, jobs, self.now, pipeline=PIPELINE)

    async def due(self) -> list[str]:
        """The jobs that are due."""
        due = select(JobRow.id).where(JobRow.state == "queued", JobRow.due_at <= self.now).order_by(JobRow.id)
        return await self.database.fetch(str, due)

    async def run(self) -> None:
        """Run jobs until none is due."""
        while ids := await self.due():
            await self.executor.run(QUEUE, ids)

    async def pass_time(self, **time: float) -> None:
        self.now += timedelta(**time)
        await self.run()

    async def until_next_job(self) -> float:
        """Let time pass until the next job is due, and run it; returns how many seconds that took."""
        [due] = await self.database.fetch(datetime, select(JobRow.due_at).order_by(JobRow.due_at).limit(1))
        waited = (due - self.now).total_seconds()
        self.now = due
        await self.run()
        return waited

    async def execution(self, id_: str) -> WorkflowExecution:
        found = await self.executions.get(id_)
        assert found is not None
        return found

    async def state(self, id_: str) -> tuple[str, str | None]:
        found = await self.execution(id_)
        return found.status, found.phase

    async def actions(self, id_: str) -> list[WorkflowAction]:
        query = select(WorkflowAction).where(WorkflowAction.execution_id == id_).order_by(WorkflowAction.position)
        return await self.database.fetch(WorkflowAction, query)

    async def audited(self, id_: str, prefix: str = "") -> list[str]:
        """What the audit log says of an execution, in order."""
        rows = await self.database.fetch(AuditLog, select(AuditLog).order_by(AuditLog.id))
        return [row.action for row in rows if row.details.get("execution_id") == id_ and row.action.startswith(prefix)]

    async def rows(self, table: Any) -> list[Any]:
        return await self.database.fetch(table, select(table))


async def create_tables(database: Database) -> None:
    tables = [table.__table__ for table in (*JOB_TABLES, AuditLog, *TABLES)]
    async with database.write() as connection:
        for table in tables:
            await connection.run_sync(table.create)


Actions = Sequence[Mapping[str, Any]]
MakeRig = Callable[..., Any]


@asynccontextmanager
async def rig_on(url: str, actions: Actions, **queue: Any) -> AsyncIterator[Rig]:
    database = Database(url)
    try:
        await create_tables(database)
        yield Rig(database, actions, queue)
    finally:
        await database.close()
