"""The plan of a replay: its range with the end fixed, and how far earlier runs of it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.config.load import Loaded
from pipeline.connectors import Connector
from pipeline.errors import PipelineError, UserError
from pipeline.ledger.database import Database
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.replays import ReplayRecord, Replays
from pipeline.ledger.units import Progress
from pipeline.parts import Parts
from pipeline.plugins import Plugins
from pipeline.replay.positions import resolve
from pipeline.replay.request import Choice, ReplayRequest, choose

__all__ = ["Plan", "finished_in", "plan_replay", "progress_of"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay will do.

    Attributes:
        choice: Its source, routes and stages, and its name.
        first: The first offset of the range.
        last: The last one; less than `first` where there is nothing to replay.
        incarnation: Which life of the stream that is, as the source's own group counts them.
        note: What is not as it was asked for, or why the range is empty; for people.
        progress: What earlier runs of it have finished; None where there was none.
        finished_at: When it was finished; None where it is not.
    """

    choice: Choice
    first: int
    last: int
    incarnation: int
    note: str = ""
    progress: Progress | None = None
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to do: the range is empty, or was finished."""
        return not self.total or self.finished_at is not None

    @property
    def total(self) -> int:
        """How many offsets the range has: at most so many messages."""
        return max(0, self.last - self.first + 1)

    @property
    def done(self) -> int:
        """How many of them earlier runs have finished."""
        return self.total if self.finished_at else finished_in(self.first, self.last, self.progress or Progress())

    def row(self, pipeline: str) -> ReplayRow:
        """The plan as the ledger keeps it."""
        choice = self.choice
        return ReplayRow(
            group=choice.group, stream=choice.table.stream, pipeline=pipeline, name=choice.name, source=choice.source,
            asked=choice.asked, first=self.first, last=self.last, incarnation=self.incarnation,
        )  # fmt: skip


def finished_in(first: int, last: int, progress: Progress) -> int:
    """How many offsets of a range are finished."""
    prefix = min(progress.prefix, last)
    ahead = sum(min(end, last) - max(begin, first) + 1 for begin, end in progress.ahead if begin <= last)
    return max(0, prefix - first + 1) + max(0, ahead)


async def plan_replay(loaded: Loaded, plugins: Plugins, request: ReplayRequest, *, dry_run: bool = False) -> Plan:
    """Find out what a request means now. Opens what it needs to ask, and closes it again.

    Args:
        loaded: The checked configuration.
        plugins: The loaded plugins.
        request: What is asked for.
        dry_run: Do without the database where it can't be asked; else a SQLite file is migrated.

    Raises:
        UserError: The request is wrong, a replay of this name was asked for something else, or the stream was deleted
            and created anew, or has lost its end, since it began.
        Unavailable: The broker can't be reached; or the database, but for a dry run.
    """
    choice = choose(loaded, request)
    parts = Parts(loaded, plugins)
    try:
        await parts.connector.claim()
        if not dry_run:
            await parts.prepare_database()
        record, incarnation = await _known(parts.database, choice, tolerant=dry_run)
        if record is not None:
            return _resumed(choice, record, incarnation)
        return await _fresh(parts.connector, choice, incarnation)
    finally:
        await parts.connector.close()
        await parts.database.close()


async def _known(database: Database, choice: Choice, *, tolerant: bool) -> tuple[ReplayRecord | None, int]:
    """What the ledger knows of this replay, and the stream's incarnation there."""
    replays = Replays(database)
    stream = choice.table.stream
    try:
        live = await replays.progress(choice.live_group, stream)
        return await replays.find(choice.group, stream), live.incarnation if live is not None else 0
    except PipelineError:
        if not tolerant:
            raise
        return None, 0


def _resumed(choice: Choice, record: ReplayRecord, incarnation: int) -> Plan:
    row, progress = record.row, record.progress
    if row.asked != choice.asked:
        raise UserError(
            f"the replay {row.name!r} was begun with {_words(row.asked)}: say the same again, or choose another --name"
        )
    if row.incarnation != incarnation and row.finished_at is None:
        raise UserError(
            f"stream {row.stream} was deleted and created anew, or has lost its end, since the replay {row.name!r} "
            "began: its range is gone"
        )
    done = progress_of(record) if progress is not None and progress.token is not None else None
    return Plan(choice, row.first, row.last, row.incarnation, "", done, row.finished_at)


async def _fresh(connector: Connector, choice: Choice, incarnation: int) -> Plan:
    await connector.connect()
    span = await resolve(connector, choice.table.stream, choice.begin, choice.end)
    return Plan(choice, span.first, span.last, incarnation, span.note)


def progress_of(record: ReplayRecord) -> Progress:
    """What a replay has finished."""
    row = record.progress
    if row is None:
        return Progress()
    return Progress.stored(row.prefix, row.chunk_timestamp, row.ahead)


def _words(asked: Mapping[str, object]) -> str:
    options = [f"--from {asked['from']}", f"--to {asked['to']}"]
    for key, option in (("routes", "--route"), ("only", "--only")):
        names = asked.get(key)
        options += [f"{option} {name}" for name in (names if isinstance(names, list) else [])]
    return " ".join(options)
