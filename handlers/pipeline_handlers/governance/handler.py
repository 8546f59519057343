"""The handler ``governance``: changes of entities trigger workflows; decisions on approvals let them go on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import BaseModel

from pipeline import Delivery, Handler, Reject, Setup, Unavailable
from pipeline.errors import UserError
from pipeline.jobs.contract import Job, Settlement, Work
from pipeline.policies.backoff import backoff
from pipeline_handlers.governance.definitions import Definitions
from pipeline_handlers.governance.events import ApprovalDecided, EntityChanged, is_decision, read_decision
from pipeline_handlers.governance.options import GovernanceOptions

if TYPE_CHECKING:
    from pipeline import Event
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.approvals import Approvals
    from pipeline_handlers.governance.engine import Engine

__all__ = ["GovernanceHandler"]

_DECISIONS_AT_ONCE: Final = 4
"""Each decision is a transaction of its own, on a connection of its own."""
_LONGEST_WAIT: Final = 30.0
_WANTED: Final = re.compile(r"data\.new\.(\w+)\s*(?:==|in\s*\[)\s*['\"]([^'\"]*)['\"]")
"""What a condition asks of a field, where it does so in the plainest way."""


class GovernanceHandler(Handler[GovernanceOptions]):
    """Keeps a record of every governed entity, and makes executions of the workflows that a change of it triggers.

    All that a change leaves is written with the event's outcome: the entity's record, the executions, their jobs. The
    workflows themselves run as jobs, so that one that fails holds up neither the event nor the other workflows.
    """

    name = "governance"
    Options: ClassVar[type[BaseModel]] = GovernanceOptions
    models: ClassVar[Mapping[str, type[BaseModel]]] = {
        "governance.approval.*": ApprovalDecided,
        "governance.*.*": EntityChanged,
    }

    @classmethod
    def example(cls, options: GovernanceOptions) -> tuple[str, Mapping[str, Any]] | None:
        """An event that triggers the first workflow, as far as its condition allows."""
        if not options.workflows:
            return None
        workflow = options.workflows[0]
        changes = {"on_create": "created", "on_update": "updated", "on_status_change": "status_changed"}
        change = changes[workflow.trigger]
        old = {options.status_field: (workflow.from_ or ("draft",))[0]}
        new = {options.status_field: (workflow.to or ("active",))[0]}
        new |= dict(_WANTED.findall(workflow.when.text if workflow.when else ""))
        known = {"entity_type": workflow.entity, "entity_id": f"{workflow.entity}-1", "actor_id": "me"}
        return f"governance.{workflow.entity}.{change}", {**known, "old": old, "new": new}

    @classmethod
    def queues(cls, options: GovernanceOptions) -> tuple[str, ...]:
        """The queues of all its workflows."""
        return options.queues

    async def start(self, setup: Setup) -> None:
        """Make the definitions ready; they are recorded in the database as soon as it answers."""
        from pipeline_handlers.governance.triggers import Triggers

        self._log = setup.log
        self._database = setup.database
        self._pipeline = setup.pipeline
        self._definitions = Definitions(self.options)
        self._triggers = Triggers(self._definitions, setup.database.dialect if setup.database else "sqlite")
        self._slots = asyncio.Semaphore(_DECISIONS_AT_ONCE)
        self._approvals: Approvals | None = None
        self._engine: Engine | None = None
        self._recording = asyncio.create_task(self._record_definitions(setup.database)) if setup.database else None

    async def stop(self) -> None:
        """Stop the actions."""
        if self._recording is not None:
            self._recording.cancel()
            await asyncio.gather(self._recording, return_exceptions=True)
        await self._definitions.stop()

    async def handle_batch(self, batch: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Leave what each change triggers, and apply each decision; per event None, or why it can't be."""
        now = datetime.now(UTC)
        errors: list[BaseException | None] = [None] * len(batch)
        decisions: dict[str, list[int]] = {}
        for index, (event, context) in enumerate(batch):
            try:
                if is_decision(event.routing_key):
                    decisions.setdefault(read_decision(event)[1].execution_id, []).append(index)
                else:
                    self._triggers.leave(event, self._definitions.change_in(event), context, now)
            except Reject as error:
                errors[index] = error
        if decisions:
            async with asyncio.TaskGroup() as tasks:
                for indexes in decisions.values():
                    tasks.create_task(self._decide_in_order(indexes, batch, errors))
        return errors

    async def run_jobs(self, work: Work) -> None:
        """Run executions, time-outs of approvals, and cancellations."""
        await self._open_engine().run_jobs(work)

    async def jobs_failed(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """Executions whose jobs end without them have failed."""
        await self._open_engine().jobs_failed(settlement, jobs, reason)

    async def _decide_in_order(
        self, indexes: Sequence[int], batch: Sequence[Delivery], errors: list[BaseException | None]
    ) -> None:
        """Apply the decisions about one execution, one after the other."""
        for index in indexes:
            try:
                async with self._slots:
                    await self._decide(batch[index].event)
            except Exception as error:  # noqa: BLE001 - the engine decides, event by event
                errors[index] = error

    async def _decide(self, event: Event[Any]) -> None:
        decision, data = read_decision(event)
        await self._open_approvals().decide(
            execution_id=data.execution_id,
            approver=data.approver,
            decision=decision,
            comment=data.comment,
            request_id=event.id,
            approval_id=data.approval_id,
        )

    def _open_approvals(self) -> Approvals:
        if self._approvals is None:
            from pipeline_handlers.governance.approvals import Approvals

            self._approvals = Approvals(
                self._existing_database(), self._definitions, self.options, pipeline=self._pipeline, log=self._log
            )
        return self._approvals

    def _open_engine(self) -> Engine:
        if self._engine is None:
            from pipeline_handlers.governance.engine import Engine

            self._engine = Engine(
                self._existing_database(), self._definitions, self.options, self._log, pipeline=self._pipeline
            )
        return self._engine

    def _existing_database(self) -> Database:
        if self._database is None:
            raise Unavailable("database", "the stage was started without one")
        return self._database

    async def _record_definitions(self, database: Database) -> None:
        """Record the definitions once; until that is done, each execution leaves its own with it."""
        tries = 0
        while True:
            try:
                await self._triggers.record(database)
            except Unavailable:
                tries += 1
                await asyncio.sleep(backoff(tries, 1.0, _LONGEST_WAIT))
            except UserError as error:
                self._log.debug("the definitions were not recorded: %s", error)  # whoever commits says so aloud
                return
            else:
                return
