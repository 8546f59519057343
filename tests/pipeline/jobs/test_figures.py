"""Figures tell how each queue stands; of the runs the last ones are kept."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import insert

from pipeline.config.models import QueueTable
from pipeline.jobs.figures import QueueFigures, failed_runs, queue_figures, runs_of
from pipeline.jobs.outbox import job_values
from pipeline.jobs.retention import trim_runs
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, JobRun
from tests.pipeline.jobs.samples import NOON, PIPELINE, job, runs


async def put(db: Database, name: str, queue: str = "queue", due: float = 0, **fields: object) -> None:
    values = job_values(job(name, queue), NOON, PIPELINE) | {"due_at": NOON + timedelta(seconds=due)} | fields
    async with db.write() as connection:
        await connection.execute(insert(JobRow), [values])


async def keep_runs(db: Database, queue: str, state: str, *names: str) -> None:
    rows = [
        {"job_id": name, "pipeline": PIPELINE, "queue": queue, "stage": "s", "run": 1, "state": state, "worker": "w",
         "started_at": NOON, "ended_at": NOON, "error": None}
        for name in names
    ]  # fmt: skip
    async with db.write() as connection:
        await connection.execute(insert(JobRun), rows)


async def test_jobs_are_counted_by_how_they_stand(db: Database) -> None:
    await put(db, "old", due=-60)
    await put(db, "due")
    await put(db, "tried and due", due=-1, failures=2)
    await put(db, "scheduled", due=60)
    await put(db, "failed before", due=60, failures=1)
    await put(db, "met an outage", due=60, error="smtp is down")
    await put(db, "running", due=-300, state="running", owner="w")
    await put(db, "elsewhere", "other", due=5)
    await keep_runs(db, "queue", "completed", "a", "b")
    await keep_runs(db, "gone", "failed", "c")

    found = await queue_figures(db, ["queue", "empty"], NOON, PIPELINE)

    assert found == [
        QueueFigures("empty"),
        QueueFigures("gone", failed=1),
        QueueFigures("other", scheduled=1),
        QueueFigures("queue", queued=3, scheduled=1, backing_off=2, running=1, completed=2, oldest_seconds=60.0),
    ]


async def test_a_jobs_runs_and_a_queues_failures_can_be_looked_at(db: Database) -> None:
    await keep_runs(db, "queue", "failed", "a", "b", "a")
    await keep_runs(db, "queue", "completed", "a")

    assert [run.state for run in await runs_of(db, "a")] == ["failed", "failed", "completed"]
    assert [run.job_id for run in await failed_runs(db, "queue", limit=2, pipeline=PIPELINE)] == ["a", "b"]


async def test_each_queue_keeps_its_last_runs(db: Database) -> None:
    for queue in ("short", "undeclared"):
        await keep_runs(db, queue, "completed", *(f"{queue}-{number}" for number in range(120)))
    await keep_runs(db, "short", "failed", "f1", "f2", "f3")
    await keep_runs(db, "none", "completed", "n1")
    queues = {"short": QueueTable(keep_completed=2, keep_failed=5), "none": QueueTable(keep_completed=0)}

    assert await trim_runs(db, queues, PIPELINE) == 118 + 20 + 1

    left = [run.job_id for run in await runs(db)]
    assert left[:2] == ["short-118", "short-119"]
    assert left[2:102] == [f"undeclared-{number}" for number in range(20, 120)]
    assert left[102:] == ["f1", "f2", "f3"]
    assert await trim_runs(db, queues, PIPELINE) == 0
