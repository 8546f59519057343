"""Redrives as the owner of a source carries them out: what is asked for, and what came of it, written once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, bindparam, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from pipeline.ledger.clean import clean_id, clean_text
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.faults import reason_of
from pipeline.ledger.fencing import fenced, held
from pipeline.ledger.lease import Lease
from pipeline.ledger.letters import failure_values
from pipeline.ledger.tables import WAITING, DeadLetter, OperatorAction, ProgressRow
from pipeline.ledger.units import Dead, Overtaking, Redriven, Scope, SourceKey
from pipeline.ledger.writing import UNWRITABLE, UnitWriter, blames_data, undone

__all__ = ["LEFT", "REDRIVING", "Redrives", "overtake"]

_TABLE: Final[Any] = DeadLetter.__table__  # type: ignore[attr-defined]
REDRIVING: Final = text("dead_letters.state = 'redriving' AND dead_letters.outcome IS NULL")
"""A condition: its source's owner is to run it again. As text: a partial index serves no bound values."""
LEFT: Final = "left"
"""The outcome of one that the owner has left as a job: what comes of that is to be told by its worker."""


class Redrives:
    """Dead letters of a source that wait to be run again.

    Methods raise `Unavailable("database", …)` and `DatabaseRefused` as those of the ledger do.
    """

    def __init__(self, db: Database, writer: UnitWriter) -> None:
        self._db = db
        self._writer = writer

    async def waiting_keys(self, key: SourceKey, limit: int) -> list[tuple[str, str]]:
        """Route and ordering key of every dead letter that a later event may overtake; at most so many of them."""
        of_source = and_(_TABLE.c.consumer_group == key.group, _TABLE.c.stream == key.stream, text(WAITING))
        async with self._db.read() as connection:
            places = select(_TABLE.c.route, _TABLE.c.ordering_key).where(of_source).distinct().limit(limit)
            found = await connection.execute(places)
            return [(row.route, row.ordering_key) for row in found]

    async def requested(self, key: SourceKey, besides: Collection[int], limit: int, size: int) -> list[DeadLetter]:
        """Dead letters that are to be run again, in the order of their messages.

        Args:
            key: The source.
            besides: Ids of those that are on their way already.
            limit: How many at most.
            size: How many bytes their bodies may have together; where none is on its way, one may have more.
        """
        of_source = and_(_TABLE.c.consumer_group == key.group, _TABLE.c.stream == key.stream, REDRIVING)
        found = select(_TABLE.c.id, func.length(_TABLE.c.body)).where(of_source)
        found = found.order_by(_TABLE.c.incarnation, _TABLE.c.message_offset, _TABLE.c.id)
        async with self._db.read() as connection:
            rows = (await connection.execute(found.limit(limit + len(besides)))).all()
        wanted: list[int] = []
        for id_, length in rows:
            if id_ in besides:
                continue
            size -= length
            if len(wanted) == limit or (size < 0 and (wanted or besides)):
                break
            wanted.append(id_)
        if not wanted:
            return []
        letters = await self._db.fetch(DeadLetter, select(DeadLetter).where(col(DeadLetter.id).in_(wanted)))
        return sorted(
            (letter for letter in letters if letter.state == "redriving" and letter.outcome is None),
            key=lambda letter: (letter.incarnation, letter.offset, letter.id or 0),
        )

    async def settle(self, lease: Lease, results: Sequence[Redriven]) -> None:
        """Write what came of redrives, in one transaction; each once, however often this is called.

        One whose own rows the database refuses is dead again, and stops no other.

        Raises:
            Fenced: Another runner has taken over: nothing was written, and it runs them again.
        """
        try:
            await self._settle(lease, results)
        except Exception as error:
            if not blames_data(error):
                raise
            if len(results) > 1:
                for result in results:
                    await self.settle(lease, [result])
                return
            await self._settle(lease, [_unwritable(results[0], reason_of(error))])

    async def _settle(self, lease: Lease, results: Sequence[Redriven]) -> None:
        now = utcnow()
        beat = update(ProgressRow).where(held(lease)).values(beat=ProgressRow.beat + 1, updated_at=now)
        async with self._db.write() as connection:
            if (await connection.execute(beat)).rowcount == 0:
                raise fenced(lease)
            actions = []
            for result in results:
                changes = {"redrives": result.redrives + 1, **_changes(lease.key, result)}
                asked = await self._change(connection, result, changes)
                if asked is None:
                    continue  # it was written before, and the answer was lost
                if result.unit is not None:
                    await self._writer.write(connection, Scope(lease.key, result.incarnation, now), [result.unit])
                await overtake(connection, lease.key, result.overtakings)
                actions.append(_action(lease, result, asked, now))
            if actions:
                await connection.execute(insert(OperatorAction), actions)

    async def _change(self, connection: AsyncConnection, result: Redriven, changes: dict[str, Any]) -> Any:
        """The request that is answered by this; None where the dead letter does not wait for it."""
        change = update(_TABLE).where(
            _TABLE.c.id == result.letter, _TABLE.c.state == "redriving", _TABLE.c.redrives == result.redrives
        )
        return (await connection.execute(change.values(changes).returning(_TABLE.c.id, _TABLE.c.request))).one_or_none()


async def overtake(connection: AsyncConnection, key: SourceKey, overtakings: Iterable[Overtaking]) -> None:
    """Note on the dead letters of earlier events of these keys that a later one was handled."""
    parameters = [
        {
            "at_group": key.group, "at_stream": key.stream, "at_route": later.route, "at_key": clean_id(later.key),
            "at_incarnation": later.incarnation, "at_offset": later.offset, "by": clean_id(later.event_id),
        }
        for later in overtakings
    ]  # fmt: skip
    if parameters:
        await connection.execute(_OVERTAKE, parameters)


def _overtake_statement() -> Any:
    """Built once."""
    columns = _TABLE.c
    earlier = or_(
        columns.incarnation < bindparam("at_incarnation"),
        and_(
            columns.incarnation == bindparam("at_incarnation"),
            columns.message_offset < bindparam("at_offset"),
        ),
    )
    return (
        update(_TABLE)
        .where(
            columns.consumer_group == bindparam("at_group"), columns.stream == bindparam("at_stream"),
            columns.route == bindparam("at_route"), columns.ordering_key == bindparam("at_key"), text(WAITING), earlier,
        )
        .values(overtaken_by=bindparam("by"))
    )  # fmt: skip


_OVERTAKE: Final = _overtake_statement()


def _changes(key: SourceKey, result: Redriven) -> dict[str, Any]:
    if result.dead is None and result.left:
        return {"outcome": LEFT}
    if result.dead is None and result.outcome is not None:
        return {"state": "redriven", "outcome": result.outcome.value}
    if result.dead is None:
        return {"state": "open", "redrives": result.redrives}  # nothing was run
    told = failure_values(replace(result.dead, route=result.route), key.group, key.stream)
    if result.dead.kind == UNWRITABLE:  # it reached its end, so that where it failed before is where it stands
        told = {name: value for name, value in told.items() if name not in ("stage", "closing")}
    return told | {"state": "open", "attempts": _TABLE.c.attempts + result.dead.attempts}


def _action(lease: Lease, result: Redriven, asked: Any, now: datetime) -> dict[str, Any]:
    if result.dead is not None:
        action, reason = "failed", f"{result.dead.stage or result.dead.kind}: {result.dead.reason}"
    elif result.outcome is None:
        action, reason = "refused", result.reason
    elif result.left:
        action, reason = LEFT, f"as a job of the stage {result.left!r}"
    else:
        action, reason = "redriven", result.reason
    details = {} if result.outcome is None or action == LEFT else {"outcome": result.outcome.value}
    return {
        "at": now, "actor": f"runner {lease.owner}", "action": action, "dead_letter": asked.id,
        "request": asked.request, "reason": clean_text(reason), "details": details,
    }  # fmt: skip


def _unwritable(result: Redriven, why: str) -> Redriven:
    """The result without its rows, which the database refuses."""
    now, reason = utcnow(), f"the database refused what the stages left: {why}"
    if result.dead is not None:
        dead = replace(result.dead, reason=f"{result.dead.reason}; then {reason}")
    else:
        dead = Dead("", "", UNWRITABLE, reason, 0, now, now)
    unit = result.unit
    if unit is not None:
        journal = undone(unit.journal, reason)
        unit = replace(unit, rows=(), statements=(), dead=(), journal=journal) if journal else None
    return replace(result, dead=dead, unit=unit)
