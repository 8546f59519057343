"""Workers are killed, and Redis comes back without its data: every job runs, and leaves its effect once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic

import pytest
from sqlalchemy import text

from pipeline.jobs.contract import NewJob
from pipeline.jobs.outbox import enqueue
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from pipeline.plugins import load_plugins
from tests.integration.redis_servers import ForgetfulRedis, start_forgetful_redis, tell

HANDLER = """
import asyncio
from sqlalchemy import text
from pipeline import Handler, hookimpl

class Effect(Handler):
    name = "effect"

    @classmethod
    def queues(cls, options):
        return ("one", "two")

    async def handle(self, event, context): ...

    async def run_jobs(self, work):
        await asyncio.sleep(0.2)
        async with work.transaction() as settlement:
            for job in sorted(settlement.held):
                await settlement.connection.execute(text("INSERT INTO effects (id) VALUES (:id)"), {"id": job})
                settlement.done(job)

@hookimpl
def pipeline_handlers():
    return [Effect]
"""
PIPELINE = """
[pipeline]
handlers = "mine.py"
grace = "5s"

[broker]
url = "memory://faults"

[database]
url = "{database}"

[jobs]
url = "{redis}"
concurrency = 20

[source.s]
stream = "s"
group = "g"

[[route]]
match = "#"
stages = ["effect"]
"""


class Site:
    """A database, a Redis and a folder, and the workers on them."""

    def __init__(self, folder: Path, database: str, redis: ForgetfulRedis) -> None:
        self.folder = folder
        self.database = Database(database)
        self.redis = redis
        self.workers: list[subprocess.Popen[bytes]] = []
        (folder / "mine.py").write_text(HANDLER)
        (folder / "pipeline.toml").write_text(PIPELINE.format(database=database, redis=redis.url))

    def start(self) -> subprocess.Popen[bytes]:
        """One more worker."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "DATABASE_"))}
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "worker"], cwd=self.folder, env=environ, stdout=log, stderr=log
            )
        self.workers.append(worker)
        return worker

    async def leave(self, first: int, last: int) -> None:
        jobs = [NewJob(f"{number:05}", ("one", "two")[number % 2], stage="effect") for number in range(first, last)]
        async with self.database.write() as connection:
            await enqueue(connection, self.database.dialect, jobs, pipeline="pipeline")

    async def hold(self) -> None:
        """Have the claims that stand last for days."""
        async with self.database.write() as connection:
            days = text("UPDATE jobs SET claimed_until = now() + interval '9 days' WHERE state = 'running'")
            assert (await connection.execute(days)).rowcount

    async def count(self, what: str) -> int:
        async with self.database.read() as connection:
            return int((await connection.execute(text(f"SELECT count(*) FROM {what}"))).scalar_one())

    async def reach(self, effects: int, seconds: float = 60) -> None:
        """Wait until so many jobs have had their effect."""
        until = monotonic() + seconds
        while (done := await self.count("effects")) < effects:
            assert monotonic() < until, f"{done} of {effects}; {self.said()}"
            await asyncio.sleep(0.05)

    def said(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))


@pytest.fixture
async def site(tmp_path: Path, postgres: str, own_server: Callable[..., ForgetfulRedis]) -> AsyncIterator[Site]:
    site = Site(tmp_path, postgres, own_server(start_forgetful_redis))
    await migrate(site.database, load_plugins().branches())
    async with site.database.write() as connection:
        await connection.execute(text("CREATE TABLE effects (id text PRIMARY KEY)"))
    yield site
    for worker in site.workers:
        worker.kill()
        worker.wait()
    await site.database.close()


@pytest.mark.slow
async def test_no_job_is_lost_or_repeated_by_killed_workers_and_a_redis_without_memory(site: Site) -> None:
    site.start()
    doomed = site.start()
    await site.leave(0, 600)
    await site.reach(50)
    doomed.send_signal(signal.SIGKILL)
    await site.reach(150)
    site.redis.kill()
    await site.leave(600, 800)
    doomed = site.start()
    await asyncio.sleep(1)
    site.redis.start()
    await site.reach(400)
    await tell(site.redis.url, "FLUSHALL")
    doomed.send_signal(signal.SIGKILL)
    await site.reach(800)
    assert await site.count("effects") == 800
    until = monotonic() + 10
    while await site.count("jobs"):
        assert monotonic() < until, site.said()
        await asyncio.sleep(0.05)
    assert await site.count("job_runs WHERE state = 'failed' AND error <> 'its worker was lost'") == 0
    assert "Traceback" not in site.said()
    first = site.workers[0]
    first.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.wait, 20) == 0


@pytest.mark.slow
async def test_the_jobs_of_a_killed_worker_run_again_at_once_on_the_same_machine(site: Site) -> None:
    doomed = site.start()
    await site.leave(0, 20)
    until = monotonic() + 30
    while not await site.count("jobs WHERE state = 'running'"):
        assert monotonic() < until, site.said()
        await asyncio.sleep(0.01)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    await site.hold()  # so that nobody gets them by waiting
    site.start()
    await site.reach(20)
