"""The replays that a pipeline's ledger knows: listed, and forgotten."""

from __future__ import annotations

from pipeline.config.load import Loaded
from pipeline.config.problems import near
from pipeline.errors import UserError
from pipeline.ledger.database import Database
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.owner import is_gone, owner_id
from pipeline.ledger.replays import ReplayRecord, Replays
from pipeline.ledger.units import SourceKey
from pipeline.replay.supervising import acquire_alone

__all__ = ["forget_replay", "known_replays", "state_of"]


async def known_replays(loaded: Loaded) -> list[ReplayRecord]:
    """The replays of this pipeline, the newest first.

    Raises:
        Unavailable: The database can't be reached.
    """
    database = Database(loaded.config.database.url or "")
    try:
        return await Replays(database).list(loaded.config.pipeline.name)
    finally:
        await database.close()


async def forget_replay(loaded: Loaded, name: str, source: str | None = None) -> None:
    """Remove a replay and its progress, so that the same request begins anew; dead letters stay.

    Args:
        loaded: The checked configuration.
        name: The replay's name.
        source: Its source, where several have a replay of this name.

    Raises:
        UserError: There is no such replay, there are several, or a process runs it.
        Unavailable: The database can't be reached.
    """
    database = Database(loaded.config.database.url or "")
    try:
        replays, ledger = Replays(database), Ledger(database)
        row = _one(await replays.list(loaded.config.pipeline.name), name, source).row
        lease = await acquire_alone(ledger, SourceKey(row.source, row.group, row.stream), owner_id())
        await replays.forget(lease)
    finally:
        await database.close()


def state_of(record: ReplayRecord) -> str:
    """``finished``, ``running`` or ``stopped``; a process that died on another machine counts as running still."""
    if record.row.finished_at is not None:
        return "finished"
    owner = record.progress.owner if record.progress is not None else None
    return "stopped" if owner is None or is_gone(owner) else "running"


def _one(records: list[ReplayRecord], name: str, source: str | None) -> ReplayRecord:
    found = [one for one in records if one.row.name == name and source in (None, one.row.source)]
    if not found:
        known = [one.row.name for one in records]
        raise UserError(f"there is no replay {name!r}{near(name, known)}: 'pipeline replay --list' shows them")
    if len(found) > 1:
        sources = ", ".join(one.row.source for one in found)
        raise UserError(f"several sources have a replay {name!r}: choose with --source one of {sources}")
    return found[0]
