"""What the engine reads and writes of executions: each kind of row of a whole batch by one statement."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Table, Text, bindparam, column, func, literal_column, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline import Row
from pipeline.jobs.statements import listed, one_of
from pipeline_handlers.governance.contract import EntityView
from pipeline_handlers.governance.tables import Entity, WorkflowAction, WorkflowDefinition, WorkflowExecution

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from pipeline_handlers.governance.planning import Running

__all__ = ["ACTIONS", "EXECUTIONS", "ExecutionRecord", "Records", "sorted_by", "table_of"]

EntityKey = tuple[str, str]


def table_of(model: Any) -> Table:
    """The SQLAlchemy table of a SQLModel class: selecting it gives plain rows, and makes no instances."""
    table: Table = model.__table__
    return table


def sorted_by(of: Any) -> Any:
    """What to sort by so that rows are locked in this column's order.

    PostgreSQL might rather read a whole index in order than look up a hundred keys and sort them; it does not see that
    this is the index's order.
    """
    return of + ""


EXECUTIONS = table_of(WorkflowExecution)
ACTIONS = table_of(WorkflowAction)
_DEFINITIONS = table_of(WorkflowDefinition)
_ENTITIES = table_of(Entity)


class ExecutionRecord(NamedTuple):
    """What the engine reads of an execution's row: its columns, and whether it was ever begun."""

    id: str
    workflow: str
    definition_id: str
    entity_type: str
    entity_id: str
    actor_id: str | None
    stage: str
    queue: str
    status: str
    phase: str | None
    position: int
    event_id: str
    event: dict[str, Any]
    event_time: int
    causation: list[dict[str, Any]]
    is_begun: bool


_EXECUTION_COLUMNS = [EXECUTIONS.c[name] for name in ExecutionRecord._fields if name != "is_begun"]


class Records:
    """Statements over many executions, built once for a database.

    Args:
        dialect: `Database.dialect`.
    """

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        by_id = one_of(EXECUTIONS.c.id, "ids", dialect)
        self._executions = select(*_EXECUTION_COLUMNS, EXECUTIONS.c.started_at.is_not(None)).where(by_id)
        self._bodies = select(_DEFINITIONS.c.id, _DEFINITIONS.c.body).where(one_of(_DEFINITIONS.c.id, "ids", dialect))
        self._actions = (
            select(ACTIONS)
            .join(EXECUTIONS, EXECUTIONS.c.id == ACTIONS.c.execution_id)
            .where(by_id, EXECUTIONS.c.position == ACTIONS.c.position)
        )
        self._entities = _entities(dialect, lock=False)
        self._locked_entities = _entities(dialect, lock=True)
        self._update = _execution_update(dialect)
        self._upsert = _action_upsert(dialect)

    async def executions(self, connection: AsyncConnection, ids: Iterable[str]) -> dict[str, ExecutionRecord]:
        """The executions by id.

        They need no lock: this transaction has locked their jobs, and whoever else changes an execution locks its job
        first (`transitions.lock`).
        """
        found = await connection.execute(self._executions, {"ids": listed(ids, self._dialect)})
        return {record.id: record for record in map(ExecutionRecord._make, found)}

    async def bodies(self, connection: AsyncConnection, definition_ids: Iterable[str]) -> dict[str, Any]:
        """The bodies of definitions by id."""
        found = await connection.execute(self._bodies, {"ids": listed(definition_ids, self._dialect)})
        return {row.id: row.body for row in found}

    async def actions(self, connection: AsyncConnection, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """By execution: the row of the action that it stands at, where that was begun."""
        found = await connection.execute(self._actions, {"ids": listed(ids, self._dialect)})
        return {row.execution_id: dict(row._mapping) for row in found}

    async def entities(
        self, connection: AsyncConnection, keys: Collection[EntityKey], locked: Collection[EntityKey]
    ) -> dict[EntityKey, EntityView]:
        """The entities of these types and ids; one that is unknown is not among them.

        Args:
            connection: The transaction.
            keys: Which.
            locked: Those of them that nobody else may change until the transaction ends.
        """
        found: dict[EntityKey, EntityView] = {}
        for statement, wanted in ((self._locked_entities, set(locked)), (self._entities, set(keys) - set(locked))):
            for kind in sorted({kind for kind, _ in wanted}):
                ids = listed((id_ for of, id_ in wanted if of == kind), self._dialect)
                for row in await connection.execute(statement, {"type": kind, "ids": ids}):
                    found[kind, row[1]] = EntityView(*row)
        return found

    async def update(self, connection: AsyncConnection, runs: Iterable[Running], now: datetime) -> None:
        """Write how executions stand; those that stand alike share a statement."""
        alike: dict[tuple[Any, ...], list[str]] = {}
        for run in runs:
            alike.setdefault((run.status, run.phase, run.position, run.error), []).append(run.record.id)
        for (status, phase, position, error), ids in alike.items():
            values = {
                "ids": listed(ids, self._dialect),
                "to_status": status,
                "to_phase": phase,
                "to_position": position,
                "to_error": error,
                "to_completed_at": None if status == "in_progress" else now,
                "to_now": now,
            }
            await connection.execute(self._update, values)

    def action(self, values: dict[str, Any]) -> Row:
        """An action's row, which replaces what was written of it before."""
        return Row(WorkflowAction, values, self._upsert)


def _entities(dialect: str, *, lock: bool) -> Any:
    """Entities of one type by their ids, locked in the order in which these are given.

    PostgreSQL would look through all entities of the type, and compare each with all ids: for 5,000 entities that took
    14 ms instead of 1. A lateral query of one row leaves it no choice but to look each up.
    """
    of = _ENTITIES.c
    view = (
        of.entity_type, of.entity_id, of.status, of.version, of.data, of.deleted_at.is_not(None).label("deleted"),
        of.status_event, of.status_at,
    )  # fmt: skip
    of_type = _ENTITIES.c.entity_type == bindparam("type")
    if dialect != "postgresql":
        return select(*view).where(of_type, one_of(_ENTITIES.c.entity_id, "ids", dialect))
    ids = func.unnest(bindparam("ids", type_=postgresql.ARRAY(Text)))
    wanted = ids.table_valued(column("id", Text)).render_derived(name="wanted")
    each = select(*view).where(of_type, _ENTITIES.c.entity_id == wanted.c.id).limit(literal_column("1"))
    found = (each.with_for_update() if lock else each).lateral("found")
    return select(*found.c).select_from(wanted.join(found, true()))


def _execution_update(dialect: str) -> Any:
    now = bindparam("to_now", type_=EXECUTIONS.c.updated_at.type)
    return (
        update(EXECUTIONS)
        .where(one_of(EXECUTIONS.c.id, "ids", dialect))
        .values(
            status=bindparam("to_status"),
            phase=bindparam("to_phase"),
            position=bindparam("to_position"),
            error=bindparam("to_error"),
            completed_at=bindparam("to_completed_at"),
            started_at=func.coalesce(EXECUTIONS.c.started_at, now),
            updated_at=now,
        )
    )


def _action_upsert(dialect: str) -> Any:
    statement: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(WorkflowAction)
    keys: Sequence[str] = ("execution_id", "position")
    changed = {column.name: statement.excluded[column.name] for column in ACTIONS.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
