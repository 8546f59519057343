"""Claims: jobs that a worker has taken for itself, for as long as it says that it lives."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, Text, and_, bindparam, func, or_, select, update
from sqlmodel import col

from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import Job
from pipeline.jobs.statements import listed, one_of, unindexed
from pipeline.ledger.columns import UTCDateTime
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow

__all__ = ["SUSPECT", "Claims", "held"]

SUSPECT: Final = 2
"""A job of which so many workers died is claimed on its own, so that it takes no others with it."""

_TABLE: Final[Table] = JobRow.__table__  # type: ignore[attr-defined]
_COLUMNS: Final = tuple(
    _TABLE.c[name] for name in ("id", "queue", "stage", "payload", "failures", "lost", "created_at", "due_at")
)


class Claims:
    """Claims jobs for one worker, renews its claims and gives them back: one statement each, for any number of jobs.

    All methods raise what `Database.write` raises.

    Args:
        database: Where the jobs are.
        owner: The worker, as `owner_id` names it.
        clock: By which jobs are due.
        lease: Seconds that a claim lasts without being renewed.
        pipeline: Whose jobs it takes.
    """

    def __init__(self, database: Database, owner: str, clock: Clock, lease: float, *, pipeline: str) -> None:
        self._database = database
        self._owner = owner
        self._clock = clock
        self._lease = timedelta(seconds=lease)
        self._pipeline = pipeline
        self._take = _take(database.dialect)
        self._suspects = _suspects(database.dialect)
        self._renew = _renew(database.dialect)
        self._give_back = _give_back(held(database.dialect))
        self._give_all_back = _give_back(_mine)

    async def take(self, queue: str, ids: Iterable[str], *, suspects: bool = False) -> list[Job]:
        """Claim those of these jobs that are due and nobody's, or this worker's already.

        The latter are claims of which the answer was lost: ask for no job that is being run here.

        Args:
            queue: Their queue; a job of another queue is left alone.
            ids: The jobs.
            suspects: Whether to take a job of which workers died before, too.
        """
        async with self._database.write() as connection:
            if not self._clock.is_measured:  # a claim by a wrong clock would run out too early
                await self._clock.measure(connection)
            now = self._clock.now()
            parameters = self._asked(queue, ids, now) | {
                "until": now + self._lease, "most_lost": 2**31 - 1 if suspects else SUSPECT - 1,
            }  # fmt: skip
            rows = (await connection.execute(self._take, parameters)).all()
        return [Job(*row) for row in rows]

    async def suspects(self, queue: str, ids: Iterable[str]) -> list[str]:
        """Which of these jobs could be claimed, but only one at a time."""
        async with self._database.read() as connection:
            found = await connection.execute(self._suspects, self._asked(queue, ids, self._clock.now()))
            return sorted(found.scalars())

    async def renew(self, ids: Collection[str]) -> None:
        """Say that this worker lives, and is at these jobs."""
        parameters = {
            "ids": listed(ids, self._database.dialect), "me": self._owner, "until": self._clock.now() + self._lease,
        }  # fmt: skip
        async with self._database.write() as connection:
            await connection.execute(self._renew, parameters)

    async def give_back(self, ids: Collection[str], *, after: float = 0.0, error: str | None = None) -> int:
        """Let others run these jobs; counts neither as a failure nor as a loss.

        Args:
            ids: The jobs; those that are not this worker's any more are left as they are.
            after: Seconds until they are due; 0 to leave that as it is.
            error: Why; None to leave what is noted.

        Returns:
            How many there were.
        """
        parameters = {
            "ids": listed(ids, self._database.dialect), "me": self._owner, "why": error,
            "due": self._clock.now() + timedelta(seconds=after) if after else None,
        }  # fmt: skip
        async with self._database.write() as connection:
            return (await connection.execute(self._give_back, parameters)).rowcount

    async def give_all_back(self) -> int:
        """Give back all that this worker has claimed, also what it does not know of. Returns how many there were."""
        async with self._database.write() as connection:
            return (
                await connection.execute(self._give_all_back, {"me": self._owner, "why": None, "due": None})
            ).rowcount

    def _asked(self, queue: str, ids: Iterable[str], now: datetime) -> dict[str, Any]:
        return {
            "ids": listed(ids, self._database.dialect), "asked": queue, "me": self._owner, "now": now,
            "for_pipeline": self._pipeline,
        }  # fmt: skip


def _claimable(dialect: str) -> Any:
    state = unindexed(col(JobRow.state))
    free = and_(state == "queued", col(JobRow.due_at) <= bindparam("now", type_=UTCDateTime()))
    mine = and_(state == "running", col(JobRow.owner) == bindparam("me"))
    of_queue = unindexed(col(JobRow.queue)) == bindparam("asked", type_=Text)
    ours = unindexed(col(JobRow.pipeline)) == bindparam("for_pipeline", type_=Text)
    return and_(one_of(col(JobRow.id), "ids", dialect), ours, of_queue, or_(free, mine))


def held(dialect: str) -> Any:
    """The condition that a job is one of ``ids``, and ``me``'s."""
    mine = and_(unindexed(col(JobRow.state)) == "running", col(JobRow.owner) == bindparam("me"))
    return and_(one_of(col(JobRow.id), "ids", dialect), mine)


def _locked(condition: Any, dialect: str) -> Any:
    """On PostgreSQL the rows that fulfil the condition and that no other transaction is at, locked in order.

    Whoever locks a row is about to claim, settle or withdraw that job; waiting for it would only make a deadlock
    possible.
    """
    if dialect != "postgresql":
        return condition
    rows = select(col(JobRow.id)).where(condition).order_by(col(JobRow.id)).with_for_update(skip_locked=True)
    return col(JobRow.id).in_(select(rows.cte("picked").c.id))


def _take(dialect: str) -> Any:
    condition = and_(_claimable(dialect), col(JobRow.lost) <= bindparam("most_lost"))
    return (
        update(_TABLE)
        .where(_locked(condition, dialect))
        .values(state="running", owner=bindparam("me"), claimed_until=bindparam("until"))
        .returning(*_COLUMNS)
    )


def _suspects(dialect: str) -> Any:
    return select(col(JobRow.id)).where(_claimable(dialect), col(JobRow.lost) >= SUSPECT)


def _renew(dialect: str) -> Any:
    return update(_TABLE).where(_locked(held(dialect), dialect)).values(claimed_until=bindparam("until"))


_mine: Final = and_(col(JobRow.state) == "running", col(JobRow.owner) == bindparam("me"))


def _give_back(condition: Any) -> Any:
    return (
        update(_TABLE)
        .where(condition)
        .values(
            state="queued", owner=None, claimed_until=None, hinted_at=None,
            due_at=func.coalesce(bindparam("due", type_=UTCDateTime()), col(JobRow.due_at)),
            error=func.coalesce(bindparam("why", type_=Text), col(JobRow.error)),
        )
    )  # fmt: skip
