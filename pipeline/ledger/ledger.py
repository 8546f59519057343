"""The ledger: progress with its owner and epoch, and the one transaction that moves it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, Update, bindparam, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from pipeline.events import Outcome
from pipeline.ledger.columns import utcnow
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database
from pipeline.ledger.fencing import fenced, held, row_of
from pipeline.ledger.lease import Lease, Standing
from pipeline.ledger.redriving import Redrives, overtake
from pipeline.ledger.seen import SeenIds
from pipeline.ledger.tables import ProgressRow
from pipeline.ledger.units import Commit, Progress, SourceKey, Unwritable
from pipeline.ledger.writing import Scope, UnitWriter, blames_data

__all__ = ["Ledger"]


class Ledger:
    """Progress, leases and dedupe of every source, in one database.

    Every method raises `Unavailable("database", …)` where the database can't be reached, and `DatabaseRefused` where it
    refuses the login.

    Attributes:
        database: Where they are.
        redrives: The dead letters that are to be run again.
    """

    def __init__(self, db: Database, copies: Copies | None = None) -> None:
        """A ledger on this database; `copies` are left of dead letters, where given."""
        self.database = db
        self._seen = SeenIds(db)
        self._writer = UnitWriter(db, self._seen, copies)
        self._move = _move_statement()
        self.redrives = Redrives(db, self._writer)

    # --- the lease

    async def try_acquire(self, key: SourceKey, owner: str, seen: Standing | None = None) -> Lease | Standing:
        """Take the source over where nobody holds it, or `owner` itself, or a holder that still stands as `seen`.

        Returns:
            The lease; or, where another runner holds it, who that is.
        """
        began = time.monotonic()
        free = or_(col(ProgressRow.owner).is_(None), col(ProgressRow.owner) == owner)
        if seen is not None:
            free = or_(free, (col(ProgressRow.epoch) == seen.epoch) & (col(ProgressRow.beat) == seen.beat))
        take = update(ProgressRow).where(row_of(key), free)
        take = take.values(
            owner=owner, epoch=ProgressRow.epoch + 1, beat=ProgressRow.beat + 1, source=key.source, updated_at=utcnow()
        )
        async with self.database.write() as connection:
            await connection.execute(self._create(key))
            taken = await connection.execute(take)
            row = (await connection.execute(select(ProgressRow).where(row_of(key)))).mappings().one()
        if taken.rowcount == 0:
            return Standing(row["owner"] or "", row["epoch"], row["beat"])
        progress = _progress_of(row)
        return Lease(key, owner, row["epoch"], row["incarnation"], progress, row["token"] is not None, began)

    async def renew(self, lease: Lease) -> None:
        """Show that the holder lives. Each commit does so too. Raises `Fenced` where another runner has taken over."""
        began = time.monotonic()
        async with self.database.write() as connection:
            beat = update(ProgressRow).where(held(lease)).values(beat=ProgressRow.beat + 1, updated_at=utcnow())
            if (await connection.execute(beat)).rowcount == 0:
                raise fenced(lease)
        lease.renewed_at = began

    async def release(self, lease: Lease) -> None:
        """Give the source back, so that another runner may begin at once; nothing happens where one already has."""
        async with self.database.write() as connection:
            await connection.execute(
                update(ProgressRow)
                .where(held(lease))
                .values(owner=None, beat=ProgressRow.beat + 1, updated_at=utcnow())
            )

    async def new_incarnation(self, lease: Lease, progress: Progress) -> None:
        """Begin again: the stream was deleted and created anew, or has lost its end, so its old offsets mean nothing.

        Args:
            lease: The ownership of the source.
            progress: Where the new incarnation begins.

        Raises:
            Fenced: Another runner has taken over.
        """
        began, following = time.monotonic(), lease.incarnation + 1
        reset = update(ProgressRow).where(held(lease), col(ProgressRow.incarnation) <= following)
        reset = reset.values(
            incarnation=following, prefix=progress.prefix, chunk_timestamp=progress.timestamp,
            ahead=progress.ahead_text, token=f"incarnation {following}", beat=ProgressRow.beat + 1, updated_at=utcnow(),
        )  # fmt: skip
        async with self.database.write() as connection:
            if (await connection.execute(reset)).rowcount == 0:
                raise fenced(lease)
        lease.incarnation, lease.progress, lease.started, lease.renewed_at = following, progress, True, began

    # --- the commit

    async def commit(self, lease: Lease, commit: Commit) -> list[Unwritable]:
        """Write finished units and the source's progress, in one transaction, once.

        A unit whose own data the database refuses does not stop the others: it leaves a dead letter in place of its
        rows, and counts as dead.

        Returns:
            The units that were refused so.

        Raises:
            Fenced: Another runner has taken over: nothing was written, and nothing ever will be with this lease.
            Unavailable: It is not known whether it was written: call again with the same `Commit`, until this returns
                or raises `Fenced`; it is never written twice.
        """
        began = time.monotonic()
        scope = Scope(lease.key, lease.incarnation, utcnow())
        try:
            await self._commit_all(lease, commit, scope)
        except Exception as error:
            if not blames_data(error) or not commit.units:
                raise
            await self._commit_writable(lease, commit, scope)
        lease.progress, lease.started, lease.renewed_at = commit.progress, True, began
        return list(commit.unwritable)

    async def _commit_all(self, lease: Lease, commit: Commit, scope: Scope) -> None:
        async with self.database.write() as connection:
            if not await self._moved(connection, lease, commit, scope.at):
                return
            if commit.units:
                commit.unwritable.clear()
                await self._writer.write(connection, scope, commit.units)
            await overtake(connection, lease.key, commit.overtakings)

    async def _commit_writable(self, lease: Lease, commit: Commit, scope: Scope) -> None:
        """The same in a new transaction, by halves: the first one was lost with the unit that it broke on."""
        async with self.database.write() as connection:
            if not await self._moved(connection, lease, commit, scope.at):
                return
            commit.unwritable[:] = await self._writer.isolate(connection, scope, commit.units)
            await overtake(connection, lease.key, commit.overtakings)
            if any(refused.unit.outcome is not Outcome.DEAD for refused in commit.unwritable):
                await connection.execute(_recount(lease, commit.unwritable))

    async def _moved(self, connection: AsyncConnection, lease: Lease, commit: Commit, at: datetime) -> bool:
        """Move the progress; False where this very commit has been written already. Locks the row till the end."""
        if (await connection.execute(self._move, _move_parameters(lease, commit, at))).rowcount == 1:
            return True
        stored = select(col(ProgressRow.epoch), col(ProgressRow.token)).where(row_of(lease.key))
        row = (await connection.execute(stored)).one_or_none()
        if row is None or row.epoch != lease.epoch:
            raise fenced(lease)
        return False

    # --- dedupe, and what people look at

    async def seen(self, group: str, ids: Sequence[str]) -> set[str]:
        """Which of these event ids the group has finished before."""
        return await self._seen.find(group, ids)

    async def forget(self, group: str, older_than: datetime) -> int:
        """Forget the group's event ids that were seen before this time; in short transactions. Returns how many."""
        return await self._seen.forget(group, older_than)

    async def progress(self) -> list[ProgressRow]:
        """Where every source stands."""
        return await self.database.fetch(
            ProgressRow, select(ProgressRow).order_by(col(ProgressRow.source), col(ProgressRow.stream))
        )

    def _create(self, key: SourceKey) -> Any:
        kind: Any = postgresql.insert if self.database.dialect == "postgresql" else sqlite.insert
        values = {"consumer_group": key.group, "stream": key.stream, "source": key.source, "updated_at": utcnow()}
        return kind(ProgressRow).values(values).on_conflict_do_nothing()


def _progress_of(row: RowMapping) -> Progress:
    return Progress.stored(row["prefix"], row["chunk_timestamp"], row["ahead"])


def _move_statement() -> Update:
    """Built once: it runs for every commit."""
    counters = (ProgressRow.handled, ProgressRow.filtered, ProgressRow.dead, ProgressRow.duplicate)
    return (
        update(ProgressRow)
        .where(
            col(ProgressRow.group) == bindparam("at_group"),
            col(ProgressRow.stream) == bindparam("at_stream"),
            col(ProgressRow.epoch) == bindparam("at_epoch"),
            col(ProgressRow.token).is_distinct_from(bindparam("new_token")),
        )
        .values(
            prefix=bindparam("new_prefix"),
            chunk_timestamp=bindparam("new_timestamp"),
            ahead=bindparam("new_ahead"),
            token=bindparam("new_token"),
            updated_at=bindparam("now"),
            beat=ProgressRow.beat + 1,
            **{counter.key: counter + bindparam(f"add_{counter.key}") for counter in counters},  # type: ignore[attr-defined]
        )
    )


def _move_parameters(lease: Lease, commit: Commit, at: datetime) -> dict[str, Any]:
    progress = commit.progress
    parameters: dict[str, Any] = {f"add_{outcome.value}": commit.counts.get(outcome, 0) for outcome in Outcome}
    parameters |= {
        "at_group": lease.key.group,
        "at_stream": lease.key.stream,
        "at_epoch": lease.epoch,
        "new_prefix": progress.prefix,
        "new_timestamp": progress.timestamp,
        "new_ahead": progress.ahead_text,
        "new_token": commit.token,
        "now": at,
    }
    return parameters


def _recount(lease: Lease, unwritable: Sequence[Unwritable]) -> Update:
    """Count the refused units as dead instead of what they would have been."""
    former = Counter(refused.unit.outcome for refused in unwritable)
    changes: dict[str, Any] = {outcome.value: -former[outcome] for outcome in Outcome}
    changes[Outcome.DEAD.value] += former.total()
    return (
        update(ProgressRow)
        .where(held(lease))
        .values(
            {
                getattr(ProgressRow, name): getattr(ProgressRow, name) + change
                for name, change in changes.items()
                if change
            }
        )
    )
