"""Dead letters, as people look at them, and what people decide about them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, and_, false, func, insert, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from pipeline.errors import Unavailable
from pipeline.ledger.clean import clean_text
from pipeline.ledger.columns import UTCDateTime, json_type, utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.faults import is_deadlock
from pipeline.ledger.fingerprints import in_common
from pipeline.ledger.letters_filtered import FILTERS, conditions, named, redrivable
from pipeline.ledger.outcomes import outcomes
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.tables import DeadLetter, OperatorAction

__all__ = ["FILTERS", "Asked", "DeadLetters", "Group"]

_REFUSALS: Final = 1_000
"""How many refusals are told one by one."""
_TRIES: Final = 5
"""Beside the last, where each ends in a deadlock."""
_TABLE: Final[Any] = DeadLetter.__table__  # type: ignore[attr-defined]
_ACTIONS: Final[Any] = OperatorAction.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters that failed in the same way, at the same place.

    Attributes:
        id: Ten hexadecimal digits: the dead letters' `fingerprint`.
        source: The source; likewise the four after it.
        reason: What their reasons have in common; ``…`` stands for names and numbers, and for where they part.
        place: Where in the code the newest failed, as far as that is known.
        count: How many there are.
        first_at: When the first of them was tried first.
        last_at: When the last of them failed last.
        example: The id of the newest.
    """

    id: str
    source: str
    stream: str
    route: str
    stage: str
    kind: str
    reason: str
    place: str | None
    count: int
    first_at: datetime
    last_at: datetime
    example: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and whom it reached.

    Attributes:
        request: Its id, as `OperatorAction.request` has it; made up where nothing was to be changed.
        count: How many dead letters it reached.
        refused: Dead letters that were chosen and left as they are, and why; at most a thousand of them.
        newest: The greatest id among those that it reached, where nothing was to be changed; 0 for none.
    """

    request: str
    count: int
    refused: dict[int, str]
    newest: int = 0

    @property
    def forcible(self) -> int:
        """How many of `refused` were refused only as a later event of their key was, or may have been, handled."""
        return sum(why.startswith("a later event of its key ") for why in self.refused.values())


class DeadLetters:
    """The table `dead_letters`. The ledger writes it, together with the progress; here it is read, and decided about.

    Methods raise `Unavailable("database", …)` where the database can't be reached, and `UserError` for a filter of an
    unknown name. A filter that is None does not filter.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list(self, limit: int = 50, *, before: int | None = None, **filters: Any) -> list[DeadLetter]:
        """The newest dead letters first.

        Args:
            limit: How many at most.
            before: Only those with a smaller id: the last id of one page gives the next page.
            filters: `FILTERS` → the value that the field must have.
        """
        statement = select(DeadLetter).where(*conditions(filters)).order_by(col(DeadLetter.id).desc()).limit(limit)
        if before is not None:
            statement = statement.where(col(DeadLetter.id) < before)
        return await self._db.fetch(DeadLetter, statement)

    async def get(self, number: int) -> DeadLetter | None:
        """The dead letter with this id."""
        found = await self._db.fetch(DeadLetter, select(DeadLetter).where(col(DeadLetter.id) == number))
        return found[0] if found else None

    async def names(self, field: Literal["source", "route", "stage", "kind", "replay"]) -> set[str]:
        """What stands in this field of any dead letter, whatever its state, or replays' names; at most a thousand."""
        column = col(ReplayRow.name) if field == "replay" else _TABLE.c[field]
        return set(await self._db.fetch(str, select(column).where(column != "").distinct().limit(1_000)))

    async def count(self, **filters: Any) -> int:
        """How many there are; filters as for `list`."""
        counted = await self._db.fetch(int, select(func.count()).select_from(DeadLetter).where(*conditions(filters)))
        return counted[0]

    async def groups(self, limit: int = 50, **filters: Any) -> Sequence[Group]:
        """Dead letters by failure, the biggest group first; filters as for `list`."""
        columns = _TABLE.c
        counted = (
            select(
                columns.fingerprint, func.count().label("number"), func.min(columns.first_at).label("first_at"),
                func.max(columns.last_at).label("last_at"), func.max(columns.id).label("example"),
                func.min(columns.reason).label("least"), func.max(columns.reason).label("most"),
            )
            .where(*conditions(filters)).group_by(columns.fingerprint)
            .order_by(func.count().desc(), columns.fingerprint)
            .limit(limit).subquery()
        )  # fmt: skip
        told = (columns[name] for name in ("source", "stream", "route", "stage", "kind", "reason", "place"))
        statement = select(counted, *told).join(_TABLE, columns.id == counted.c.example)
        async with self._db.read() as connection:
            rows = (await connection.execute(statement.order_by(counted.c.number.desc(), counted.c.fingerprint))).all()
        return [
            Group(
                row.fingerprint, row.source, row.stream, row.route, row.stage, row.kind,
                in_common(row.reason, row.least, row.most), row.place, row.number, row.first_at, row.last_at,
                row.example,
            )
            for row in rows
        ]  # fmt: skip

    async def history(self, number: int) -> Sequence[OperatorAction]:
        """What was done about a dead letter, and what came of it, in order."""
        about = select(OperatorAction).where(col(OperatorAction.dead_letter) == number)
        return await self._db.fetch(OperatorAction, about.order_by(col(OperatorAction.id)))

    async def redrive(
        self,
        *,
        by: str,
        reason: str,
        from_start: bool = False,
        force: bool = False,
        sources: Collection[tuple[str, str]] | None = None,
        dry_run: bool = False,
        **filters: Any,
    ) -> Asked:
        """Ask for open dead letters to be run again, by the runner that owns their source.

        One that a later event of its key has overtaken is refused, and so is one of which that is not known: it could
        undo what the later event did.

        Args:
            by: Who asks.
            reason: Why.
            from_start: Run them from their route's start, and not from the stage that failed.
            force: Run those, too, that would be refused.
            sources: Consumer group and stream of the sources that there are; letters of others are refused, but for
                those of their replays. None for all.
            dry_run: Only say which it would be.
            filters: As for `list`.
        """
        safe = [] if force else [_TABLE.c.overtaken_by.is_(None), _TABLE.c.order_known]
        if sources is not None:
            safe.append(or_(false(), *(redrivable(*source) for source in sources)))
        changes = {"state": "redriving", "from_start": from_start, "forced": force, "outcome": None}
        details = {"from": "start" if from_start else "stage", **({"forced": True} if force else {})}
        return await self._ask("redrive", by, reason, changes, details, safe, filters, dry_run)

    async def discard(self, *, by: str, reason: str, dry_run: bool = False, **filters: Any) -> Asked:
        """Set open dead letters aside for good; arguments as for `redrive`.

        By its id, so is one that waits for its redrive: its source may be gone for good.
        """
        return await self._ask("discard", by, reason, {"state": "discarded", "outcome": None}, {}, [], filters, dry_run)

    async def outcomes(self, request: str) -> dict[str, int]:
        """What has come of a request to redrive so far, as counts.

        ``waiting`` are not run yet, ``left`` are jobs of their asynchronous stage, for its workers; ``handled``,
        ``filtered`` and ``dead`` (of a message that had reached no route: a route has failed now) are redriven,
        ``failed`` are open again, ``refused`` were not run.
        """
        return await outcomes(self._db, request)

    async def _ask(
        self,
        action: str,
        by: str,
        reason: str,
        changes: dict[str, Any],
        details: dict[str, Any],
        safe: Iterable[ColumnElement[bool]],
        filters: dict[str, Any],
        dry_run: bool,
    ) -> Asked:
        request = uuid.uuid4().hex
        states = ("open", "redriving") if action == "discard" and filters.get("ids") else ("open",)
        chosen, may = [*conditions(filters), _TABLE.c.state.in_(states)], and_(true(), *safe)
        if dry_run:
            async with self._db.read() as connection:
                figures = select(func.count(), func.coalesce(func.max(_TABLE.c.id), 0)).where(*chosen, may)
                count, newest = (await connection.execute(figures)).one()
                refused = await _refused(connection, filters, or_(~may, _TABLE.c.state.not_in(states)), changes)
                return Asked(request, count, refused, newest)
        if not self._db.exists():  # before the first run
            return Asked(request, 0, {})

        async def write() -> Asked:
            async with self._db.write() as connection:
                change = update(_TABLE).where(*chosen, may).values(request=request, **changes)
                count = (await connection.execute(change)).rowcount
                await connection.execute(_note(request, action, by, reason, details))
                refused = await _refused(connection, filters, _TABLE.c.request.is_distinct_from(request), changes)
                return Asked(request, count, refused)

        return await _past_deadlocks(write)


async def _past_deadlocks(write: Callable[[], Awaitable[Asked]]) -> Asked:
    """Write again where another operator, or a runner that notes what was overtaken, has locked rows in another order.

    Nothing was written then.
    """
    for _ in range(_TRIES):
        try:
            return await write()
        except Unavailable as error:
            if not isinstance(error.__cause__, Exception) or not is_deadlock(error.__cause__):
                raise
    return await write()


def _note(request: str, action: str, by: str, reason: str, details: dict[str, Any]) -> Any:
    """Keep what was done about each dead letter that a request has reached."""
    values = {
        "at": literal(utcnow(), UTCDateTime()), "actor": literal(clean_text(by)), "action": literal(action),
        "dead_letter": _TABLE.c.id, "request": literal(request), "reason": literal(clean_text(reason)),
        "details": literal(details, json_type()),
    }  # fmt: skip
    return insert(_ACTIONS).from_select(list(values), select(*values.values()).where(_TABLE.c.request == request))


async def _refused(
    connection: AsyncConnection, filters: dict[str, Any], unreached: ColumnElement[bool], changes: dict[str, Any]
) -> dict[int, str]:
    """Dead letters that were chosen and not reached: those that are open still, or that were named by their ids."""
    columns, ids = _TABLE.c, filters.get("ids")
    told = (
        columns.id, columns.state, columns.overtaken_by, columns.order_known, columns.job, columns.route,
        columns.consumer_group, columns.stream, columns.message_offset, columns.ordering_key,
    )  # fmt: skip
    which = [*conditions(filters), unreached, *([] if ids else [columns.state == "open"])]
    rows = await connection.execute(select(*told).where(*which).order_by(columns.id).limit(_REFUSALS))
    refused = {row.id: _refusal(row, changes) for row in rows}
    if ids:
        known = set((await connection.execute(select(columns.id).where(named(columns.id, ids)))).scalars())
        refused |= {number: "there is no such dead letter" for number in ids if number not in known}
    return refused


def _refusal(row: Any, changes: dict[str, Any]) -> str:
    if row.state != "open":
        return f"it is {row.state}, and not open"
    forced = changes.get("forced", True)
    if row.overtaken_by is not None and not forced:
        return f"a later event of its key was handled after it: {row.overtaken_by}"
    if not row.order_known and not forced:
        why = (
            "an asynchronous stage keeps no order" if row.job
            else "it reached no route" if not row.route
            else "its route orders by a key that it does not have" if row.ordering_key is None
            else "nobody took note of that"
        )  # fmt: skip
        return f"a later event of its key may have been handled after it: {why}"
    told = f"no source reads the stream {row.stream!r} as the group {row.consumer_group!r}"
    if ".replay." not in row.consumer_group:
        return told
    at = row.message_offset
    return f"{told}, nor is such a replay known: replay it anew, from {at} to {at}, under another name"
