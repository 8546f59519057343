"""From a change of an entity to what it leaves: the entity's record, executions of workflows, and their jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects import postgresql, sqlite

from pipeline import Context, Event, Row
from pipeline.ids import name_uuid
from pipeline.jobs.contract import INLINE, NewJob
from pipeline.ledger.clean import clean_id
from pipeline_handlers.governance.audit import audit_values
from pipeline_handlers.governance.entities import entity_row, upsert_entity
from pipeline_handlers.governance.tables import WorkflowDefinition, WorkflowExecution

if TYPE_CHECKING:
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.definitions import Definition, Definitions
    from pipeline_handlers.governance.events import Change

__all__ = ["CANCEL", "EXECUTE", "Triggers", "definition_values", "event_record"]

EXECUTE: Final = "execute"
CANCEL: Final = "cancel"


class Triggers:
    """Leaves what changes of entities trigger, in their events' contexts.

    Args:
        definitions: The stage's workflows.
        dialect: The database's, ``sqlite`` or ``postgresql``.

    Attributes:
        recorded: Ids of definitions that are in the database for certain; the others are left with each execution.
    """

    def __init__(self, definitions: Definitions, dialect: str) -> None:
        self._definitions = definitions
        self._upsert = upsert_entity(dialect)
        self._upsert_follow_up = upsert_entity(dialect, follow_up=True)
        self.recorded: set[str] = set()

    def leave(
        self, event: Event[Any], change: Change, context: Context, now: datetime, *, use_queue: bool = True
    ) -> list[str]:
        """Leave the entity's record, and for each workflow that the event triggers an execution and its job.

        The rows' ids are made of the event, so that the same event never makes the same execution twice. An event
        that is handled again after its commit (with ``dedupe = false``) does repeat its audit rows.

        Args:
            event: The event.
            change: What it says.
            context: Gets the rows and jobs.
            now: The time.
            use_queue: False for all jobs to go `INLINE`, whatever the definitions say.

        Returns:
            The ids of the executions.
        """
        told_by_step = change.caused_by is not None and event.id.rpartition("/")[0] == change.caused_by
        context.add(entity_row(change, event, now, self._upsert_follow_up if told_by_step else self._upsert))
        matches = self._definitions.matching(change, event)
        ids: list[str] = []
        if matches.triggered or matches.held_back:
            record = event_record(event, context.route)
            request = context.request_id
            for definition in matches.triggered:
                queue = definition.queue if use_queue else INLINE
                ids.append(self._execution(definition, event, record, change, context, now, queue, request))
            for definition, reason in matches.held_back:
                context.add(_held_back(definition, reason, record, change, now))
        for definition in self._definitions.cancelled_by(change):
            context.enqueue(_cancellation(definition, event, change, context, use_queue=use_queue))
        return ids

    async def record(self, database: Database) -> None:
        """Write the current definitions, so that executions need not leave them; raises what `write` raises."""
        insert = postgresql.insert if database.dialect == "postgresql" else sqlite.insert
        now = datetime.now(UTC)
        # In one order everywhere, so that processes that start together do not wait for each other in a circle.
        current = sorted(self._definitions.current, key=lambda definition: definition.id)
        if current:
            async with database.write() as connection:
                await connection.execute(
                    insert(WorkflowDefinition).on_conflict_do_nothing(),
                    [definition_values(definition, now) for definition in current],
                )
        self.recorded.update(definition.id for definition in current)

    def _execution(
        self,
        definition: Definition,
        event: Event[Any],
        record: dict[str, Any],
        change: Change,
        context: Context,
        now: datetime,
        queue: str,
        request: str,
    ) -> str:
        id_ = name_uuid(request, definition.name)
        cause = {"workflow": definition.name, "entity": change.entity, "execution_id": id_}
        if definition.id not in self.recorded:
            context.add(Row(WorkflowDefinition, definition_values(definition, now), "ignore"))
        context.add(
            Row(
                WorkflowExecution,
                {
                    "id": id_,
                    "workflow": definition.name,
                    "definition_id": definition.id,
                    "entity_type": change.entity_type,
                    "entity_id": change.entity_id,
                    "actor_id": change.actor_id,
                    "trigger": definition.trigger,
                    "stage": context.stage,
                    "queue": queue,
                    "status": "in_progress",
                    "phase": "queued",
                    "position": 0,
                    "actions": len(definition.actions),
                    "event_id": record["id"],
                    "event": record,
                    "event_time": event.timestamp,
                    "event_offset": event.offset,
                    "causation": [*change.causation, cause],
                    "created_at": now,
                    "updated_at": now,
                },
                "ignore",
            )
        )
        details = {
            "execution_id": id_,
            "workflow": definition.name,
            "definition_id": definition.id,
            "trigger": definition.trigger,
            "queue": queue,
        }
        context.add(_audit("execution_queued", record, change, now, details))
        context.enqueue(NewJob(f"{EXECUTE}:{id_}", queue, {"kind": EXECUTE}, stage=context.stage))
        return id_


def event_record(event: Event[Any], route: str) -> dict[str, Any]:
    """The event as `WorkflowExecution.event` keeps it."""
    return {
        "id": clean_id(event.id),
        "routing_key": event.routing_key,
        "data": event.data,
        "headers": dict(event.headers),
        "time": event.time.isoformat(),
        "source": event.source,
        "stream": event.stream,
        "route": route,
    }


def definition_values(definition: Definition, now: datetime) -> dict[str, Any]:
    """The row of `WorkflowDefinition`."""
    return {
        "id": definition.id,
        "name": definition.name,
        "version": definition.version,
        "entity": definition.entity,
        "body": definition.body,
        "created_at": now,
    }


def _held_back(definition: Definition, reason: str, record: dict[str, Any], change: Change, now: datetime) -> Row:
    details = {"workflow": definition.name, "reason": reason, "causation": list(change.causation)}
    return _audit("execution_held_back", record, change, now, details)


def _audit(action: str, record: dict[str, Any], change: Change, now: datetime, details: dict[str, Any]) -> Row:
    entity = (change.entity_type, change.entity_id)
    return audit_values(action, record, now, entity=entity, user_id=change.actor_id, details=details)


def _cancellation(
    definition: Definition, event: Event[Any], change: Change, context: Context, *, use_queue: bool
) -> NewJob:
    """A job that ends what the workflow has under way for this entity, as far as earlier events triggered it."""
    became = "deleted" if change.kind == "deleted" else change.new_status
    payload = {
        "kind": CANCEL,
        "workflow": definition.name,
        "entity_type": change.entity_type,
        "entity_id": change.entity_id,
        "status": became,
        "reason": f"{change.entity} became {became}",
        "actor_id": change.actor_id,
        "event_id": clean_id(event.id),
        "caused_by": change.caused_by,
        "time": event.timestamp,
        "stream": event.stream,
        "offset": event.offset,
    }
    queue = definition.queue if use_queue else INLINE
    return NewJob(f"{CANCEL}:{context.request_id}:{definition.name}", queue, payload)
