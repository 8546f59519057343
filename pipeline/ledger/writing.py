"""What a commit writes beside the progress: handlers' rows, dead letters, seen ids, the journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import insert, text
from sqlalchemy.exc import ArgumentError, CompileError, NoReferenceError
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.events import Outcome
from pipeline.ledger.clean import clean_id, clean_text
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database
from pipeline.ledger.faults import Fault, fault_of, reason_of
from pipeline.ledger.letters import letter_rows, upsert_letters
from pipeline.ledger.rows import RowWriter
from pipeline.ledger.seen import SeenIds
from pipeline.ledger.tables import OutcomeRow
from pipeline.ledger.units import Dead, JournalEntry, Scope, Unit, Unwritable

__all__ = ["UNWRITABLE", "Scope", "UnitWriter", "blames_data", "undone"]

UNWRITABLE: Final = "unwritable"
"""The kind of dead letter that stands for a unit whose rows the database refused."""

_DATA_ERRORS: Final = (
    ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError, ArgumentError, CompileError,
    NoReferenceError,
)  # fmt: skip
"""What drivers and SQLAlchemy raise for a value, a row or a statement that never reaches the database."""


def blames_data(error: Exception) -> bool:
    """True where a unit's own rows or statements are at fault, and no other try will mend it."""
    fault = fault_of(error)
    return fault is Fault.DATA or (fault is None and isinstance(error, _DATA_ERRORS))


class UnitWriter:
    """Writes units within a transaction; finds those that can't be written, and leaves dead letters for them.

    Args:
        db: The database.
        seen: Remembers ids.
        copies: Copies dead letters to streams; None for no copies.
    """

    def __init__(self, db: Database, seen: SeenIds, copies: Copies | None = None) -> None:
        self._db = db
        self._seen = seen
        self._rows = RowWriter(db.dialect)
        self._copies = copies
        self._letters = upsert_letters(db.dialect)
        self._journal = insert(OutcomeRow)

    async def write(self, connection: AsyncConnection, scope: Scope, units: Sequence[Unit]) -> None:
        """Write all of it, in bulk. An error that `blames_data` means that one of the units can't be written."""
        await self._rows.write(connection, units)
        if dead := [row for unit in units for row in letter_rows(scope, unit)]:
            await connection.execute(self._letters, dead)
            if self._copies is not None:
                await self._copies.leave(connection, dead)
        await self._seen.remember(connection, scope.key.group, _ids(units), scope.at)
        if journal := [row for unit in units for row in _journal_rows(scope, unit)]:
            await connection.execute(self._journal, journal)

    async def isolate(self, connection: AsyncConnection, scope: Scope, units: Sequence[Unit]) -> list[Unwritable]:
        """Write what can be written, by halves; a unit that can't leaves a dead letter instead of its rows."""
        try:
            async with connection.begin_nested():
                await self.write(connection, scope, units)
                await self._check_deferred(connection)
        except Exception as error:
            if not blames_data(error):
                raise
            if len(units) == 1:
                return [await self._bury(connection, scope, units[0], error)]
        else:
            return []
        middle = len(units) // 2
        first = await self.isolate(connection, scope, units[:middle])
        return first + await self.isolate(connection, scope, units[middle:])

    async def _bury(self, connection: AsyncConnection, scope: Scope, unit: Unit, error: Exception) -> Unwritable:
        reason = f"the database refused what the stages left: {reason_of(error)}"
        letters = _unwritable(scope, unit, reason)
        journal = undone(unit.journal, reason)
        rest = replace(unit, outcome=Outcome.DEAD, rows=(), statements=(), dead=(*unit.dead, *letters), journal=journal)
        await self.write(connection, scope, [rest])
        return Unwritable(unit, letters[0])

    async def _check_deferred(self, connection: AsyncConnection) -> None:
        """Check deferred constraints now: at the commit it could no longer be told which unit breaks them."""
        if self._db.dialect == "postgresql":
            await connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
            await connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))


def _unwritable(scope: Scope, unit: Unit, reason: str) -> list[Dead]:
    """A dead letter for each route of a unit whose rows are refused: which route's they were is not known.

    Routes that have one already need no other; where all have, one stands for the message.
    """
    if unit.as_dead is not None:
        return [replace(unit.as_dead, kind=UNWRITABLE, reason=reason)]
    failed = {dead.route for dead in unit.dead}
    routes = [(route, key) for route, key in zip(unit.routes, unit.keys, strict=True) if route.name not in failed]
    if not routes:
        return [Dead("", "", UNWRITABLE, reason, 0, scope.at, scope.at)]
    return [
        Dead(route.name, "", UNWRITABLE, reason, 0, scope.at, scope.at, key=key, order_known=not route.ordered)
        for route, key in routes
    ]


def undone(journal: Iterable[JournalEntry], reason: str) -> list[JournalEntry]:
    """The journal of a message of which nothing could be written: every route of it is dead now."""
    return [
        entry if entry.outcome is Outcome.DEAD else JournalEntry(entry.route, Outcome.DEAD, reason) for entry in journal
    ]


def _ids(units: Iterable[Unit]) -> Iterator[str]:
    return (unit.event_id for unit in units if unit.event_id is not None)


def _journal_rows(scope: Scope, unit: Unit) -> Iterator[dict[str, Any]]:
    for entry in unit.journal:
        yield {
            "consumer_group": scope.key.group,
            "stream": scope.key.stream,
            "incarnation": scope.incarnation,
            "message_offset": unit.message.offset,
            "event_id": clean_id(scope.event_id(unit)),
            "routing_key": None if unit.routing_key is None else clean_text(unit.routing_key),
            "route": entry.route,
            "outcome": entry.outcome.value,
            "reason": clean_text(entry.reason),
            "at": scope.at,
        }
