"""What a worker does around a handler's jobs: hand them over, keep what is left, go on with the next."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson

from pipeline import Handler, Job, NewJob, Row


class Ledger:
    """What jobs left behind.

    Attributes:
        rows: The rows, in order.
        ends: What became of each job, by its id: ``done``, or why it failed or is run again.
        left: Jobs that were left and have not run yet.
        taken: Jobs that another worker has taken over.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.ends: dict[str, str] = {}
        self.left: list[NewJob] = []
        self.taken: set[str] = set()

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """Action and entity of each row."""
        return [(row.values["action"], row.values["entity_id"]) for row in self.rows]

    async def work(self, handler: Handler[Any], jobs: Iterable[NewJob], most: int = 1_000) -> None:
        """Run jobs, then those that they leave, without waiting until they are due."""
        self.left += jobs
        while self.left and most:
            batch, self.left = self.left, []
            most -= 1
            await handler.run_jobs(FakeWork([claimed(job) for job in batch], self))


def claimed(job: NewJob) -> Job:
    """A job as a worker gets it: through JSON."""
    now = datetime.now(UTC)
    payload = orjson.loads(orjson.dumps(dict(job.payload)))
    return Job(job.id, job.queue, job.stage, payload, 0, 0, now, job.due_at or now)


class FakeSettlement:
    connection: Any = None

    def __init__(self, jobs: Sequence[Job], ledger: Ledger) -> None:
        self.held = frozenset(job.id for job in jobs) - ledger.taken
        self.now = datetime.now(UTC)
        self.rows: list[Row] = []
        self.ends: dict[str, str] = {}
        self.left: list[NewJob] = []

    def add(self, row: Any) -> None:
        self.rows.append(row)

    def done(self, job_id: str) -> None:
        assert job_id in self.held
        self.ends[job_id] = "done"

    def failed(self, job_id: str, error: str) -> None:
        assert job_id in self.held
        self.ends[job_id] = error

    def again(self, job_id: str, *, after: float, error: str, counts: bool = True, quiet: bool = False) -> None:
        raise NotImplementedError

    def enqueue(self, job: NewJob) -> None:
        self.left.append(job)

    def withdraw(self, job_id: str) -> None:
        raise NotImplementedError

    def publish(self, stream: str, message: Any) -> None:
        raise NotImplementedError


class FakeWork:
    max_failures = 6

    def __init__(self, jobs: Sequence[Job], ledger: Ledger) -> None:
        self.jobs = jobs
        self.queue = jobs[0].queue if jobs else uuid.uuid4().hex
        self._ledger = ledger

    @asynccontextmanager
    async def transaction(self, jobs: Sequence[Job] | None = None) -> AsyncIterator[FakeSettlement]:
        settlement = FakeSettlement(self.jobs if jobs is None else jobs, self._ledger)
        yield settlement
        self._ledger.rows += settlement.rows
        self._ledger.ends |= settlement.ends
        self._ledger.left += settlement.left

    def retry_after(self, failures: int) -> float | None:
        return 1.0
