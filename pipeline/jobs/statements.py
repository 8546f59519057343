"""Statements over many ids: one text and one parameter for any number of them, so that they are prepared once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Text, any_, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["ignoring_insert", "listed", "one_of", "unindexed"]


def one_of(column: Any, parameter: str, dialect: str) -> ColumnElement[bool]:
    """The condition that a text column is one of those in a parameter, which is given as `listed` makes it."""
    if dialect == "postgresql":
        found: ColumnElement[bool] = column == any_(bindparam(parameter, type_=postgresql.ARRAY(Text)))
        return found
    values = func.json_each(bindparam(parameter, type_=Text)).table_valued("value", name=f"{parameter}_each")
    return column.in_(select(values.c.value))  # type: ignore[no-any-return]


def listed(values: Iterable[str], dialect: str) -> Any:
    """The parameter of `one_of`: sorted, so that all transactions lock rows in the same order."""
    ordered = sorted(values)
    return ordered if dialect == "postgresql" else orjson.dumps(ordered).decode()


def unindexed(column: Any) -> Any:
    """A text column in a condition that rows found by their ids must fulfil, too.

    Planners that know little of a table believe that few rows are in one state of one queue, and would look through
    all of these instead.
    """
    return column.concat("")


def ignoring_insert(table: Any, dialect: str) -> Any:
    """An INSERT that leaves a row which is there already as it is."""
    return (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table).on_conflict_do_nothing()
