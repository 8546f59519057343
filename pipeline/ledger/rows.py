"""From the rows and statements that handlers leave to bulk inserts, in an order that keeps their meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Insert, Table, insert
from sqlalchemy import inspect as inspect_sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors
from sqlalchemy.sql.ddl import sort_tables

from pipeline.ledger.recordset import FEWEST, Recordsets
from pipeline.ledger.units import Row, Unit

__all__ = ["RowWriter"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How rows of one class become parameters of its table's INSERT.

    Attributes:
        columns: The columns by their attributes.
        always: Attribute and column, written also where it is None.
        unless_none: Attribute and column that the database or a column default fills where it is None.
        relationships: Attributes that a bulk insert would silently lose.
    """

    table: Table
    statement: Insert
    columns: Mapping[str, Any]
    always: tuple[tuple[str, str], ...]
    unless_none: tuple[tuple[str, str], ...]
    relationships: tuple[str, ...]

    def parameters(self, row: Any) -> dict[str, Any]:
        """The row's values by column. Raises `TypeError` for related objects, and for a `Row`'s unknown names."""
        if type(row) is Row:
            values: Mapping[str, Any] = row.values
            if unknown := values.keys() - self.columns.keys():
                raise TypeError(f"{row.table.__name__} has no field {min(unknown)!r}")
        else:
            values = row.__dict__  # an instrumented attribute costs ten times as much to read
        for name in self.relationships:
            if values.get(name):
                raise TypeError(
                    f"{type(row).__name__}.{name} holds related objects: set the foreign key's column, and add each row"
                )
        found = {column: values.get(attribute) for attribute, column in self.always}
        for attribute, column in self.unless_none:
            value = values.get(attribute)
            if value is not None:
                found[column] = value
        return found


@dataclass(slots=True)
class _Run:
    """Rows that may be written together, and the statements that follow them."""

    rows: list[Any] = field(default_factory=list)
    statements: list[Any] = field(default_factory=list)
    touched: set[Table] = field(default_factory=set)


class RowWriter:
    """Writes what handlers left: each table's rows by one statement for many, parents before children."""

    def __init__(self, dialect: str) -> None:
        self._insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
        self._recordsets = Recordsets() if dialect == "postgresql" else None
        self._ignoring: dict[Table, Insert] = {}
        self._plans: dict[type, _Plan] = {}
        self._orders: dict[frozenset[Table], list[Table]] = {}

    async def write(self, connection: AsyncConnection, units: Sequence[Unit]) -> None:
        """Write all rows and statements of these units, in their order wherever one could tell the difference."""
        for run in self._runs(units):
            await self.write_rows(connection, run.rows)
            for statement in run.statements:
                await connection.execute(statement)

    async def write_rows(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        """Write rows of any tables, in bulk, parents before children."""
        by_table: dict[Table, list[Any]] = {}
        for row in rows:
            by_table.setdefault(self._plan(row).table, []).append(row)
        for table in self._sorted(by_table):
            # One statement takes rows that fill the same columns; neighbours only: a row may refer to an earlier one.
            for _, same in groupby(by_table[table], key=_shape):
                await self._write_alike(connection, list(same))

    async def _write_alike(self, connection: AsyncConnection, rows: list[Any]) -> None:
        """Write rows of one class that are written in one way, and that name the same fields where they are `Row`s."""
        plan = self._plan(rows[0])
        statement = self._statement(plan, rows[0])
        if type(rows[0]) is Row and await self._as_recordset(
            connection, statement, plan.table, [row.values for row in rows], plan.columns
        ):
            return
        for _, same in groupby(map(plan.parameters, rows), key=tuple):
            parameters = list(same)
            if not await self._as_recordset(connection, statement, plan.table, parameters):
                await connection.execute(statement, parameters)

    async def _as_recordset(
        self,
        connection: AsyncConnection,
        statement: Insert,
        table: Table,
        rows: list[Any],
        columns: Mapping[str, Any] | None = None,
    ) -> bool:
        updates = statement is not self._ignoring.get(table) and statement._post_values_clause is not None
        if self._recordsets is None or len(rows) < (2 if updates else FEWEST):
            return False
        return await self._recordsets.write(connection, statement, table, rows, columns)

    def _runs(self, units: Sequence[Unit]) -> Iterator[_Run]:
        """Split where a unit's rows go to a table that an earlier unit's statement reads or writes."""
        run = _Run()
        for unit in units:
            if run.touched and any(self._plan(row).table in run.touched for row in unit.rows):
                yield run
                run = _Run()
            run.rows.extend(unit.rows)
            for statement in unit.statements:
                run.statements.append(statement)
                run.touched.update(_tables_of(statement))
        yield run

    def _statement(self, plan: _Plan, row: Any) -> Insert:
        if type(row) is not Row or row.insert is None:
            return plan.statement
        if not isinstance(row.insert, str):
            return row.insert  # type: ignore[no-any-return]
        if plan.table not in self._ignoring:
            self._ignoring[plan.table] = self._insert(plan.table).on_conflict_do_nothing()
        return self._ignoring[plan.table]

    def _sorted(self, tables: dict[Table, Any]) -> list[Table]:
        if len(tables) < 2:
            return list(tables)
        key = frozenset(tables)
        if key not in self._orders:
            self._orders[key] = sort_tables(key)
        return self._orders[key]

    def _plan(self, row: Any) -> _Plan:
        kind = row.table if type(row) is Row else type(row)
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = _plan_for(kind)
        return plan


def _shape(row: Any) -> tuple[Any, ...]:
    return (row.table, id(row.insert), *row.values) if type(row) is Row else (type(row),)


def _plan_for(kind: type) -> _Plan:
    try:
        mapper: Any = inspect_sql(kind)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper) or not isinstance(mapper.local_table, Table):
        raise TypeError(f"context.add takes instances of SQLModel tables, not {kind.__name__}")
    if len(mapper.tables) > 1:
        raise TypeError(f"{kind.__name__} spreads over several tables, which context.add does not take")
    columns: dict[str, Any] = {}
    always: list[tuple[str, str]] = []
    unless_none: list[tuple[str, str]] = []
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if not isinstance(column.table, Table) or column.computed is not None:
            continue
        columns[attribute.key] = column
        filled = column.primary_key or column.default is not None or column.server_default is not None
        (unless_none if filled else always).append((attribute.key, str(column.key)))  # else a quoted name
    return _Plan(
        mapper.local_table,
        insert(mapper.local_table),
        columns,
        tuple(always),
        tuple(unless_none),
        tuple(mapper.relationships.keys()),
    )


def _tables_of(statement: Any) -> set[Table]:
    """The tables that a statement reads or writes, as far as SQLAlchemy knows them (raw text tells nothing)."""
    found = {element for element in visitors.iterate(statement) if isinstance(element, Table)}
    target = getattr(statement, "table", None)
    return found | {target} if isinstance(target, Table) else found
