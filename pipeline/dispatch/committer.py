"""The committer: writes finished messages and the source's progress, all that have gathered in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from operator import attrgetter

from pipeline.dispatch.flight import Flight
from pipeline.dispatch.overtaken import Overtaken
from pipeline.dispatch.window import Window
from pipeline.errors import Fenced, Unavailable
from pipeline.events import Outcome
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import Commit, Unwritable
from pipeline.policies.backoff import backoff
from pipeline.stats import SourceStats

__all__ = ["Committer"]

_AT_ONCE = 2_000
_BYTES_AT_ONCE = 8 * 2**20
"""About how many bytes one commit writes at most; one message is always written."""
_PAUSE = 0.02
"""Seconds from one commit's end to the next one's begin at least, so that under load many messages share one."""
_outcome = attrgetter("outcome")
_log = logging.getLogger("pipeline.committer")


class Committer:
    """Commits what has finished, again and again, while the database answers.

    When the database is down, finished messages wait here, the window fills, and consumption pauses.

    Args:
        ledger: Where to.
        lease: The ownership that each commit is conditional on.
        window: Knows the progress that finished messages make.
        stats: Counts what is committed.
        overtaken: Knows which dead letters these messages have overtaken.
        on_committed: Called with the flights of each commit.
        on_end: Called once when no more can be committed: with None where another runner has taken the source over,
            else with the error.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        window: Window,
        stats: SourceStats,
        overtaken: Overtaken,
        on_committed: Callable[[list[Flight]], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._window = window
        self._stats = stats
        self._overtaken = overtaken
        self._on_committed = on_committed
        self._on_end = on_end
        self._finished: list[Flight] = []
        self._committing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name=f"commit {self._lease.key.source}")

    def add(self, flight: Flight) -> None:
        """Take a finished flight."""
        if not self._finished:  # else it is awake
            self._wake.set()
        self._finished.append(flight)

    def note_progress(self) -> None:
        """Commit where the source stands, also where nothing has finished."""
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether anything waits to be committed."""
        return bool(self._finished) or self._committing

    async def close(self) -> None:
        """End at once. A commit under way may or may not be written; its messages are delivered again or not."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                count = self._at_once()
                flights, self._finished = self._finished[:count], self._finished[count:]
                if not self._finished:
                    self._wake.clear()
                self._committing = True
                await self._commit(flights)
                self._committing = False
                if len(self._finished) < _AT_ONCE:
                    await asyncio.sleep(_PAUSE)
        except Fenced as error:
            _log.error("source %s: %s", self._lease.key.source, error)
            self._on_end(None)
        except Exception as error:  # noqa: BLE001 - a source that can't commit must end, and not just fill up
            self._on_end(error)

    def _at_once(self) -> int:
        """How many of the finished flights the next commit takes."""
        if self._window.bytes <= _BYTES_AT_ONCE:  # together, so there is nothing to count
            return _AT_ONCE
        size = 0
        for count, flight in enumerate(self._finished[:_AT_ONCE]):
            size += _written(flight)
            if size > _BYTES_AT_ONCE and count:
                return count
        return _AT_ONCE

    async def _commit(self, flights: list[Flight]) -> None:
        counts: Counter[Outcome] = Counter(map(_outcome, flights))
        units = [unit for flight in flights if (unit := flight.unit()) is not None]
        commit = Commit(self._window.progress(flights), counts, units, self._overtaken.by(flights))
        for unwritable in await self._write(commit):
            counts[unwritable.unit.outcome] -= 1
            counts[Outcome.DEAD] += 1
            self._stats.failed_with(f"{unwritable.dead.kind}: {unwritable.dead.reason}")
            _log.error("message at offset %d is dead: %s", unwritable.unit.message.offset, unwritable.dead.reason)
        for outcome, count in counts.items():
            self._stats.outcomes[outcome] += count
        self._stats.prefix = commit.progress.prefix
        self._overtaken.committed(flights)
        self._on_committed(flights)
        self._window.committed(flights)
        self._stats.in_flight = self._window.in_flight

    async def _write(self, commit: Commit) -> list[Unwritable]:
        """Write it, however long the database is away: the commit's token keeps it from being written twice."""
        failures = 0
        while True:
            try:
                unwritable = await self._ledger.commit(self._lease, commit)
            except (Unavailable, DatabaseRefused) as error:
                failures += 1
                self._window.hold("database", str(error))
                self._stats.last_error = str(error)
                if failures == 1:
                    _log.warning("%s; finished messages wait until it is back", error)
                await asyncio.sleep(backoff(failures, 0.1, 5.0, jitter=0.2))
                continue
            if failures:
                _log.info("the database is back")
                self._window.release("database")
            return unwritable


def _written(flight: Flight) -> int:
    """About how many bytes it leaves to be written: a dead letter has its message, and so may a row or a job."""
    left = len(flight.dead or ()) + len(flight.rows or ()) + len(flight.statements or ())
    return flight.message.size * left
