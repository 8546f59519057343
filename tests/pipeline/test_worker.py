"""The worker as a library: what a program that embeds it can rely on."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import NewJob, Pipeline, Worker
from pipeline.errors import PipelineError, UserError
from pipeline.jobs.outbox import enqueue
from pipeline.ledger.migrations import migrate
from tests.pipeline.dispatch.harness import eventually
from tests.pipeline.jobs.stage_samples import event_job

HANDLERS = """
from pathlib import Path
from pipeline import Handler, NewJob, NoOptions, hookimpl
from pipeline.jobs.contract import INLINE

STARTED = Path(__file__).with_name("started.txt")
RAN = Path(__file__).with_name("ran.txt")

class Later(Handler):
    name = "later"
    resources = ("box",)

    @classmethod
    def queues(cls, options):
        return ("later", "slow")

    async def start(self, setup):
        assert setup.database is not None
        with STARTED.open("a") as file:
            file.write(f"later {setup.use_queue} {setup.resource('box').name}\\n")

    async def handle(self, event, context):
        context.enqueue(NewJob(f"later:{event.id}", "later", {"id": event.id}))
        context.enqueue(NewJob(f"inline:{event.id}", INLINE, {"id": event.id}))

    async def run_jobs(self, work):
        async with work.transaction() as settlement:
            for job in work.jobs:
                with RAN.open("a") as file:
                    file.write(f"{work.queue} {job.payload['id']}\\n")
                settlement.done(job.id)

class Plain(Handler):
    name = "plain"

    async def start(self, setup):
        with STARTED.open("a") as file:
            file.write("plain\\n")

    async def handle(self, event, context):
        with RAN.open("a") as file:
            file.write(f"plain {event.id}\\n")

from pipeline import Resource

class Box(Resource):
    name = "box"

@hookimpl
def pipeline_handlers():
    return [Later, Plain]

@hookimpl
def pipeline_resources():
    return [Box]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(jobs: str = "") -> Path:
        (tmp_path / "mine.py").write_text(HANDLERS)
        path = tmp_path / "pipeline.toml"
        path.write_text(
            f"""
            [pipeline]
            handlers = ["mine.py"]
            grace = "5s"
            [broker]
            url = "embedded://{tmp_path}/events.db"
            [database]
            url = "sqlite:///{tmp_path}/pipeline.db"
            [source.s]
            stream = "st"
            group = "g"
            [[route]]
            match = "#"
            stages = ["later", "plain"]
            {jobs}
            """
        )
        return path

    return write


def redis(url: str) -> str:
    return f'[jobs]\nurl = "{url}"\nprefix = "test-{secrets.token_hex(6)}"'


def lines(path: Path, name: str) -> list[str]:
    file = path.with_name(name)
    return sorted(file.read_text().splitlines()) if file.exists() else []


async def leave(pipeline: Worker | Pipeline, *jobs: NewJob) -> None:
    async with pipeline.database.write() as connection:
        await enqueue(connection, pipeline.database.dialect, jobs, pipeline=pipeline.config.pipeline.name)


def of(stage: str, name: str, queue: str) -> NewJob:
    return NewJob(name, queue, {"id": name}, stage=stage)


async def test_a_worker_starts_only_stages_that_have_jobs_and_runs_them(write: Write, redis_url: str) -> None:
    path = write(redis(redis_url))
    async with Worker.from_file(path, environ={}) as worker:
        assert lines(path, "started.txt") == ["later True box"]
        await leave(worker, of("later", "a", "later"), of("later", "b", "slow"))
        await eventually(lambda: lines(path, "ran.txt") == ["later a", "slow b"])
    assert not worker.is_running
    assert worker.in_flight == 0


async def test_a_worker_starts_no_stage_whose_jobs_are_all_the_runners_own(write: Write, redis_url: str) -> None:
    path = write(redis(redis_url))
    path.with_name("mine.py").write_text(HANDLERS.replace('return ("later", "slow")', "return ()"))
    for _ in range(2):  # the second time there are jobs, and they are no business of the worker's
        async with Worker.from_file(path, environ={}) as worker:
            assert lines(path, "started.txt") == []
            assert worker.resources == {}
            await leave(worker, of("later", "a", "inline"))
    async with Pipeline.from_file(path, environ={}):
        await eventually(lambda: lines(path, "ran.txt") == ["inline a"])


async def test_a_worker_serves_the_queues_that_it_is_told_to_and_never_the_runners_own(
    write: Write, redis_url: str
) -> None:
    path = write(redis(redis_url))
    async with Worker.from_file(path, environ={}, queues=["slow"]) as worker:
        await leave(worker, *(of("later", f"{queue}-1", queue) for queue in ("later", "slow", "inline")))
        await eventually(lambda: lines(path, "ran.txt") == ["slow slow-1"])
        await asyncio.sleep(0.2)  # nothing tells that nothing comes
        assert lines(path, "ran.txt") == ["slow slow-1"]
    async with Worker.from_file(path, environ={}):
        await eventually(lambda: lines(path, "ran.txt") == ["later later-1", "slow slow-1"])
    async with Pipeline.from_file(path, environ={}, worker=False):
        await eventually(lambda: "inline inline-1" in lines(path, "ran.txt"))


async def test_a_worker_is_started_once(write: Write, redis_url: str) -> None:
    worker = Worker.from_file(write(redis(redis_url)), environ={})
    async with worker:
        pass
    with pytest.raises(PipelineError, match="started once"):
        await worker.start()


@pytest.mark.parametrize("jobs", ["", "[jobs]"])
def test_a_worker_needs_a_queue_outside_of_the_runner(write: Write, jobs: str) -> None:
    with pytest.raises(UserError, match="REDIS_URL"):
        Worker.from_file(write(jobs), environ={})


def test_a_worker_of_an_unknown_queue_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"no queue 'slaw'; did you mean 'slow'\?"):
        Worker.from_file(write(), environ={"REDIS_URL": "redis://127.0.0.1:1"}, queues=["slaw"])


@pytest.mark.parametrize("jobs", ["", "[jobs]"])
async def test_without_redis_a_pipeline_runs_all_jobs_itself(write: Write, jobs: str) -> None:
    path = write(jobs)
    async with Pipeline.from_file(path, environ={}) as pipeline:
        await leave(pipeline, of("later", "a", "later"), of("later", "b", "inline"), of("later", "c", "surprise"))
        await eventually(lambda: lines(path, "ran.txt") == ["inline b", "later a", "surprise c"])


async def test_an_embedded_queue_that_nobody_would_serve_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match="--no-worker"):
        await Pipeline.from_file(write("[jobs]"), environ={}, worker=False).start()


@pytest.mark.parametrize("where", ["worker", "runner"])
async def test_events_of_a_stage_that_is_not_async_any_more_are_run_all_the_same(
    write: Write, redis_url: str, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    path = write(redis(redis_url))
    made = Worker if where == "worker" else Pipeline
    database = made.from_file(path, environ={}).database
    await migrate(database)
    jobs = [replace(event_job(1, on="plain"), queue="before"), NewJob("lost", "before", stage="unknown")]
    async with database.write() as connection:
        await enqueue(connection, database.dialect, jobs, pipeline="pipeline")
    await database.close()
    async with made.from_file(path, environ={}):
        await eventually(lambda: lines(path, "ran.txt") == ["plain e1"])
    assert "stage plain leaves no jobs any more; 1 from before, on before, are run all the same" in caplog.text
    assert "1 jobs on before wait for the stage unknown, which is not configured" in caplog.text


async def test_without_a_stage_that_leaves_jobs_redis_is_not_used_nor_its_client_needed(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    path.write_text(path.read_text().replace('["later", "plain"]', '["plain"]'))
    monkeypatch.setitem(sys.modules, "pipeline.jobs.arq_queue", None)
    async with Pipeline.from_file(path, environ={"REDIS_URL": "redis://127.0.0.1:1"}) as pipeline:
        assert pipeline.is_running
