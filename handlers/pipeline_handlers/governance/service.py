"""Workflows as a program's own service: trigger, queue, execute and steer them without a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import select
from sqlmodel import col

from pipeline.commands import opened
from pipeline.errors import Reject, UserError
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import INLINE
from pipeline.jobs.executor import Executor
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from pipeline.ledger.owner import owner_id
from pipeline_handlers.governance.approvals import Approvals
from pipeline_handlers.governance.definitions import Definitions
from pipeline_handlers.governance.engine import Engine
from pipeline_handlers.governance.events import read_change
from pipeline_handlers.governance.executions import Executions
from pipeline_handlers.governance.options import GovernanceOptions
from pipeline_handlers.governance.planning import execution_job, execution_job_id
from pipeline_handlers.governance.steering import Steering, no_execution
from pipeline_handlers.governance.tables import WorkflowExecution
from pipeline_handlers.governance.transitions import lock, set_execution
from pipeline_handlers.governance.triggers import Triggers

if TYPE_CHECKING:
    import logging
    from datetime import datetime

    from pipeline.config.models import QueueTable

__all__ = ["WorkflowService"]

_GRACE = 10.0
"""Seconds that leaving the service waits for actions that run in this program."""
_POLL = 0.05
"""Seconds between looks at jobs that another process runs."""


class WorkflowService:
    """The workflows of one governance stage, for programs: ``async with WorkflowService.from_file(…) as service:``.

    The names of its methods are those of reference/governance-workflow-queue.md. Executions that are queued are run by
    ``pipeline run`` or ``pipeline worker``; a program that runs them itself needs neither.

    Args:
        database: The pipeline's database, migrated; closed when the service is left.
        options: The stage's options.
        pipeline: The pipeline's name.
        stage: The stage's name.
        route: The route whose events the stage handles, and
        group: its source's consumer group: the same event, read from the stream, then makes the same executions.
        source: That source, for events that name none.
        stream: Its stream, for events that name none: there go the events that tell of what workflows change. Without
            it, nobody is told.
        queues: Settings of the queues by name; others have the defaults.
        use_queue: Whether the pipeline has queues; else executions are run by the program itself.
        log: Where what goes wrong with actions is told.
        prepare: Makes the database ready when the service is entered.

    Attributes:
        executions: To list, show, retry, cancel and resume them.
        approvals: To list approvals, and to decide.
    """

    def __init__(
        self,
        database: Database,
        options: GovernanceOptions,
        *,
        pipeline: str = "pipeline",
        stage: str = "governance",
        route: str = "",
        group: str = "",
        source: str = "",
        stream: str = "",
        queues: Mapping[str, QueueTable] | None = None,
        use_queue: bool = True,
        log: logging.Logger | None = None,
        clock: Clock | None = None,
        prepare: Callable[[Database], Awaitable[None]] | None = None,
    ) -> None:
        import logging

        self._prepare = prepare

        self._database = database
        self._options = options
        self._place = (stage, route, group)
        self._source = (source, stream)
        self._use_queue = use_queue
        self._clock = clock or Clock()
        self._definitions = Definitions(options)
        self._triggers = Triggers(self._definitions, database.dialect)
        self._steering = Steering(database, self._clock, pipeline=pipeline)
        told = log or logging.getLogger("pipeline.governance")
        engine = Engine(database, self._definitions, options, told, pipeline=pipeline)
        self._executor = Executor(
            database, {stage: engine}, queues or {}, owner=owner_id(), pipeline=pipeline, clock=self._clock
        )
        self.executions = Executions(database, self._clock, pipeline=pipeline)
        self.approvals = Approvals(database, self._definitions, options, self._clock, pipeline=pipeline)

    @classmethod
    def from_file(cls, path: Path | str = "pipeline.toml", *, stage: str | None = None) -> Self:
        """The service of a pipeline's file. Enter it before it is used.

        Args:
            path: The file.
            stage: The governance stage; may be left out where there is one.

        Raises:
            UserError: The file is missing or wrong, or has no such stage, or several.
        """
        pipeline = opened(Path(path))
        stages = pipeline.stages_using("governance")
        if stage is None and len(stages) == 1:
            stage = next(iter(stages))
        options = stages.get(stage or "")
        if stage is None or not isinstance(options, GovernanceOptions):
            known = ", ".join(stages) or "none"
            raise UserError(f"{path}: name one of the governance stages with stage=…: there are {known}")
        config = pipeline.config
        route = next((one for one in config.route if stage in (*one.stages, *one.finally_)), None)
        name = (route.source if route else "") or next(iter(config.source), "")
        source = config.source.get(name)
        return cls(
            Database(config.database.url or ""),
            options,
            pipeline=config.pipeline.name,
            stage=stage,
            route=route.name or "" if route else "",
            group=source.group if source else "",
            source=name,
            stream=source.stream if source else "",
            queues=pipeline.queues,
            use_queue=pipeline.use_queue,
            prepare=pipeline.prepare,
        )

    @property
    def definitions(self) -> Mapping[str, Definitions]:
        """The current definitions by stage: what `Executions.retry` takes to go on with them."""
        return {self._place[0]: self._definitions}

    async def __aenter__(self) -> Self:
        """Raises `UserError` where the database must be migrated first; a SQLite file is migrated here."""
        if self._prepare is not None:
            await self._prepare(self._database)
        await self._executor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._executor.stop(_GRACE)
        await self._definitions.stop()
        await self._database.close()

    async def check_and_trigger_workflows(self, event: Event[Any], use_queue: bool = True) -> list[str]:
        """Record what an event says of its entity, and make an execution of each workflow that it triggers.

        Args:
            event: ``governance.<entity>.created|updated|status_changed|deleted``; without a `timestamp` it is now.
            use_queue: Whether executions go to their queues, and this returns at once; False runs their actions here
                first. One that fails raises nothing: look at it by its id.

        Returns:
            The ids of the executions, in the definitions' order. The same event gives the same ids, and makes none
            anew.

        Raises:
            Reject: The event is none of these, its data lack something, or nothing is known of its entity.
            Unavailable: The database can't be reached.
        """
        options = self._options
        change = read_change(event, options.status_field, updates_change_status=options.updates_change_status)
        if not self._definitions.knows(change.entity_type):
            raise Reject(f"nothing is known of the entity {change.entity_type!r}", kind="unknown_entity")
        stage, route, group = self._place
        context = Context(stage, route, group, event.id)
        queued = use_queue and self._use_queue
        async with self._steering.change() as made:
            ids = self._triggers.leave(self._placed(event, made.now), change, context, made.now, use_queue=queued)
            made.effects.rows += context.rows
            made.effects.statements += context.statements
            made.effects.jobs += context.jobs
        if not queued:
            await self._run_all([job.id for job in context.jobs])
        return ids

    async def _run_all(self, jobs: list[str]) -> None:
        """Run inline jobs here; those that a runner on this database has claimed before, it runs: wait for these."""
        while jobs:
            await self._executor.run(INLINE, jobs)
            now = self._clock.now()
            claimed = (col(JobRow.state) == "running") & (col(JobRow.claimed_until) > now)
            due = (col(JobRow.state) == "queued") & (col(JobRow.due_at) <= now)
            left = select(col(JobRow.id)).where(col(JobRow.id).in_(jobs), claimed | due)
            jobs = await self._database.fetch(str, left)
            if jobs:
                await asyncio.sleep(_POLL)

    def _placed(self, event: Event[Any], now: datetime) -> Event[Any]:
        """The event with a time, without which it would be older than all that is known, and with source and stream."""
        source, stream = self._source
        return Event(
            event.id, event.routing_key, event.data, event.headers, event.content_type, event.body,
            event.timestamp or int(now.timestamp() * 1000), event.source or source, event.stream or stream,
            event.offset, event.model,
        )  # fmt: skip

    async def queue_workflow_execution(self, execution_id: str, queue: str | None = None) -> bool:
        """Hand an execution that is in progress to a queue, and return at once.

        Args:
            execution_id: The execution.
            queue: The queue; by default its own.

        Returns:
            False where nothing is to be run now: it waits (for an approval, say), or has ended.

        Raises:
            UserError: There is no such execution.
        """
        async with self._steering.change() as change:
            record = (await lock(change.connection, [execution_id])).get(execution_id)
            if record is None:
                raise no_execution(execution_id)
            if record.status != "in_progress" or record.phase == "waiting":
                return False
            if queue is not None and queue != record.queue:
                await set_execution(change.connection, execution_id, change.now, queue=queue)
            change.effects.jobs.append(execution_job(execution_id, queue or record.queue, record.stage))
        return True

    async def execute_workflow_actions_for_execution(self, execution_id: str) -> WorkflowExecution:
        """Run the actions of an execution here and now, as far as they go.

        Where a worker is at it already, it is left to that one; where it backs off, until its time has come.

        Returns:
            The execution as it stands then: completed, failed, waiting or backing off.

        Raises:
            UserError: There is no such execution.
        """
        await self.queue_workflow_execution(execution_id)
        job = execution_job_id(execution_id)
        for queue in await self._database.fetch(str, select(col(JobRow.queue)).where(col(JobRow.id) == job)):
            await self._executor.run(queue, [job])
        found = await self.executions.get(execution_id)
        if found is None:
            raise no_execution(execution_id)
        return found
