"""Going on with the workflow as the file has it now: whether a failed execution can, and which definition that is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from pipeline.errors import UserError
from pipeline_handlers.governance.records import table_of
from pipeline_handlers.governance.tables import WorkflowDefinition

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from pipeline_handlers.governance.definitions import Definition, Definitions

__all__ = ["successor"]

_STORED = table_of(WorkflowDefinition)


async def successor(
    connection: AsyncConnection, record: Any, definitions: Mapping[str, Definitions]
) -> Definition | None:
    """The definition that an execution goes on with instead of the one that it started with.

    What is done was done as the old definition says, so the new one must begin with the same actions. The action that
    failed, and those after it, may be others.

    Args:
        connection: The transaction, which has locked the execution.
        record: The execution's row.
        definitions: Those of today's file, by stage.

    Returns:
        The definition; None where it is the one that the execution has already.

    Raises:
        UserError: The execution can't go on with it; says why.
    """
    of_stage = definitions.get(record.stage)
    current = next((one for one in of_stage.current if one.name == record.workflow), None) if of_stage else None
    told = f"the execution {record.id} can't go on with the current definition of {record.workflow!r}: "
    if current is None:
        raise UserError(f"{told}the stage {record.stage!r} of this file has no such workflow")
    if current.id == record.definition_id:
        return None
    if current.entity != record.entity_type:
        raise UserError(f"{told}it is about {current.entity}, not {record.entity_type}")
    found = await connection.execute(select(_STORED.c.body).where(_STORED.c.id == record.definition_id))
    body = found.scalar_one_or_none()
    if body is None:
        raise UserError(f"{told}the one that it started with, {record.definition_id}, is not stored")
    if (other := _first_difference(body["actions"], current.body["actions"], record.position)) is not None:
        done = body["actions"][other]["use"]
        raise UserError(
            f"{told}its action {other} ({done}), which is done, is another one in {current.id}; "
            f"it can be retried with {record.definition_id}, as it began"
        )
    return current


def _first_difference(before: list[Any], now: list[Any], done: int) -> int | None:
    """The first of the actions that are done that is not the same in both definitions."""
    pairs = zip_longest(map(_canonical, before[:done]), map(_canonical, now[:done]))
    return next((index for index, (one, other) in enumerate(pairs) if one != other), None)


def _canonical(action: Mapping[str, Any]) -> str:
    return json.dumps(action, sort_keys=True, ensure_ascii=False)
