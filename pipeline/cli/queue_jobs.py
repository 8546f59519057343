"""``pipeline queues jobs``: which jobs are to be done, how each stands, and which failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.cli.console import count, iso, say, show_json, show_table
from pipeline.commands import no_such
from pipeline.errors import UserError
from pipeline.jobs.figures import QueueFigures, queue_figures
from pipeline.jobs.listing import STATES, JobListing, list_failed_runs, list_jobs

if TYPE_CHECKING:
    from pipeline.config.load import Loaded

__all__ = ["show_jobs"]

_FAILED = "failed"


def show_jobs(loaded: Loaded, queue: str | None, state: str | None, limit: int, *, as_json: bool) -> None:
    """Print jobs.

    Args:
        loaded: The configuration.
        queue: Only of this queue.
        state: Only those that stand so.
        limit: How many at most.
        as_json: Whether a script reads it.

    Raises:
        UserError: There is no such state or queue.
        Unavailable: The database can't be reached.
    """
    if state not in (None, _FAILED, *STATES):
        raise UserError(f"no job is {state!r}; it is one of {', '.join((*STATES, _FAILED))}")
    listing = asyncio.run(_ask(loaded, queue, state, limit))
    rows = [_plain(one) for one in listing.rows]
    if as_json:
        show_json({"total": listing.total, "jobs": rows})
        return
    if rows:
        times = ("ended_at", "worker") if state == _FAILED else ("due_at", "owner")
        columns = ("id", "queue", "stage", "state", "tries", *times, "error")
        cells = [["-" if row[name] in (None, "") else row[name] for name in columns] for row in rows]
        show_table(columns, cells, fold=("error",), drop=(times[1], "tries", "queue", times[0]))
    told = count(listing.total, "failed run" if state == _FAILED else "job")
    say(f"{len(rows)} of {told}" if len(rows) < listing.total else told)


async def _ask(loaded: Loaded, queue: str | None, state: str | None, limit: int) -> JobListing:
    from pipeline.jobs.clock import Clock
    from pipeline.ledger.database import Database

    database, clock = Database(loaded.config.database.url or ""), Clock()
    name = loaded.config.pipeline.name
    try:
        if not database.exists():  # nothing has run yet
            _refuse_unknown(loaded, queue, ())
            return JobListing((), 0)
        async with database.read() as connection:
            await clock.measure(connection)
        found = (
            await list_failed_runs(database, name, queue=queue, limit=limit)
            if state == _FAILED
            else await list_jobs(database, name, clock.now(), queue=queue, state=state, limit=limit)
        )
        if not found.total:
            _refuse_unknown(loaded, queue, await queue_figures(database, (), clock.now(), name))
        return found
    finally:
        await database.close()


def _refuse_unknown(loaded: Loaded, queue: str | None, figures: Iterable[QueueFigures]) -> None:
    """Refuse a queue that neither the file has nor any job, or run of one, in the database."""
    known = {*loaded.queues, *(each.name for each in figures)}
    if queue is not None and queue not in known and not loaded.problems:
        raise no_such("queue", queue, known)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A job as JSON values."""
    return {name: iso(value) if name.endswith("_at") else value for name, value in row.items()}
