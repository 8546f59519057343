"""Replays in the ledger: begun once, found again by their group, listed with their progress, and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from pipeline.errors import Fenced
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.letters_filtered import conditions
from pipeline.ledger.redriving import REDRIVING
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.tables import DeadLetter, ProgressRow

__all__ = ["ReplayRecord", "Replays"]


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """A replay, and how far it is.

    Attributes:
        row: The replay.
        progress: Its group's progress; None before anybody ran it.
    """

    row: ReplayRow
    progress: ProgressRow | None


class Replays:
    """The table `replays`, with what `progress` says of their groups.

    Methods raise `Unavailable("database", …)` where the database can't be reached or is not migrated.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, row: ReplayRow) -> ReplayRow:
        """Keep a new replay; one of the same group and stream is left as it is. Returns the one that is kept."""
        kind: Any = postgresql.insert if self._db.dialect == "postgresql" else sqlite.insert
        values = row.model_dump(exclude={"group", "first", "last"})
        values |= {"consumer_group": row.group, "first_offset": row.first, "last_offset": row.last}
        async with self._db.write() as connection:
            await connection.execute(kind(ReplayRow).values(values).on_conflict_do_nothing())
        found = await self.find(row.group, row.stream)
        return found.row if found is not None else row

    async def find(self, group: str, stream: str) -> ReplayRecord | None:
        """The replay of this group on this stream."""
        at = (col(ReplayRow.group) == group, col(ReplayRow.stream) == stream)
        rows = await self._db.fetch(ReplayRow, select(ReplayRow).where(*at))
        return ReplayRecord(rows[0], await self.progress(group, stream)) if rows else None

    async def progress(self, group: str, stream: str) -> ProgressRow | None:
        """The progress of any group on this stream."""
        at = (col(ProgressRow.group) == group, col(ProgressRow.stream) == stream)
        rows = await self._db.fetch(ProgressRow, select(ProgressRow).where(*at))
        return rows[0] if rows else None

    async def list(self, pipeline: str) -> list[ReplayRecord]:
        """All replays of a pipeline, the newest first."""
        query = select(ReplayRow).where(col(ReplayRow.pipeline) == pipeline)
        rows = await self._db.fetch(ReplayRow, query.order_by(col(ReplayRow.started_at).desc()))
        found = await self._db.fetch(ProgressRow, select(ProgressRow))
        progress = {(one.group, one.stream): one for one in found}
        return [ReplayRecord(row, progress.get((row.group, row.stream))) for row in rows]

    async def asked(self, pipeline: str) -> Sequence[ReplayRow]:
        """Those replays of a pipeline of which dead letters are to be run again."""
        theirs = select(col(DeadLetter.id)).where(
            col(DeadLetter.group) == col(ReplayRow.group), col(DeadLetter.stream) == col(ReplayRow.stream), REDRIVING
        )
        return await self._db.fetch(
            ReplayRow, select(ReplayRow).where(col(ReplayRow.pipeline) == pipeline, theirs.exists())
        )

    async def unreadable(self, live_group: str, row: ReplayRow) -> set[int]:
        """Offsets in a replay's range of messages that reached no route, and left a dead letter.

        Args:
            live_group: The source's own group; its dead letters count, and those of all its replays.
            row: The replay.
        """
        offset = col(DeadLetter.offset)
        theirs = conditions({"among": {(live_group, row.stream)}, "route": ""})
        within = (offset.between(row.first, row.last), col(DeadLetter.incarnation) == row.incarnation)
        return set(await self._db.fetch(int, select(offset).where(*theirs, *within).distinct()))

    async def finish(self, group: str, stream: str) -> None:
        """Note that everything in the range has an outcome."""
        at = (col(ReplayRow.group) == group, col(ReplayRow.stream) == stream, col(ReplayRow.finished_at).is_(None))
        async with self._db.write() as connection:
            await connection.execute(update(ReplayRow).where(*at).values(finished_at=utcnow()))

    async def forget(self, lease: Lease) -> None:
        """Remove the replay and its progress; dead letters stay, and are open where they were to be run again.

        Args:
            lease: The replay's, so that nobody runs it meanwhile.

        Raises:
            Fenced: Somebody else has taken it over.
        """
        group, stream = lease.key.group, lease.key.stream
        ours = (col(ProgressRow.group) == group, col(ProgressRow.stream) == stream)
        async with self._db.write() as connection:
            held = delete(ProgressRow).where(*ours, col(ProgressRow.epoch) == lease.epoch)
            if (await connection.execute(held)).rowcount == 0:
                raise Fenced(f"somebody else runs the replay {group} now")
            # Nobody would carry out what was asked for, nor could it be asked for again.
            theirs = (col(DeadLetter.group) == group, col(DeadLetter.stream) == stream, REDRIVING)
            await connection.execute(update(DeadLetter).where(*theirs).values(state="open"))
            replay = (col(ReplayRow.group) == group, col(ReplayRow.stream) == stream)
            await connection.execute(delete(ReplayRow).where(*replay))
