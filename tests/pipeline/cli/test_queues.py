"""`queues`, `worker` and `run --no-worker`: what they show, and what they refuse."""

from __future__ import annotations

import asyncio
import secrets
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.jobs.contract import NewJob
from pipeline.jobs.outbox import enqueue
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from tests.pipeline.cli.support import HELLO, Running, eventually, process, run, running, write

ASYNC = HELLO + '\n[stage.log]\nasync = "later"\n'
MINE = """
from pipeline import handler

@handler("note")
async def note(event):
    print("noted", event.id, flush=True)

@handler("slow")
async def slow(event):
    import asyncio
    print("began", flush=True)
    await asyncio.sleep(600)
"""


def redis(url: str, text: str = ASYNC) -> str:
    return text + f'\n[jobs]\nurl = "{url}"\nprefix = "test-{secrets.token_hex(6)}"\n'


def mine(url: str, stage: str) -> None:
    """A pipeline with one of the handlers above in place of the log."""
    text = ASYNC.replace('name = "hello"', 'name = "hello"\nhandlers = "mine.py"').replace("log", stage)
    Path("mine.py").write_text(MINE)
    write(redis(url, text))


def leave(*jobs: NewJob) -> None:
    """Leave jobs in the default database."""

    async def leave() -> None:
        database = Database("sqlite:///.pipeline/pipeline.db")
        await migrate(database)
        async with database.write() as connection:
            await enqueue(connection, database.dialect, jobs, pipeline="hello")
        await database.close()

    asyncio.run(leave())


# queues


def test_queues_that_stages_use_are_shown_where_they_are_empty() -> None:
    write(ASYNC)
    leave()
    (row,) = run("queues", "--json").json["queues"]
    assert row == {
        "name": "later", "queued": 0, "scheduled": 0, "backing_off": 0, "running": 0, "completed": 0, "failed": 0,
        "oldest_seconds": None, "hints": None,
    }  # fmt: skip


def test_the_figures_of_a_queue_come_from_the_database() -> None:
    write(ASYNC)
    leave(NewJob("a", "later", stage="log"), NewJob("b", "other", stage="log"))
    found = run("queues", "--json").json
    assert found["transport"] == {"kind": "inline", "url": None, "problem": None}
    assert {row["name"]: row["queued"] for row in found["queues"]} == {"later": 1, "other": 1}
    shown = run("queues")
    header, *rows = shown.out.splitlines()
    assert header.split() == [
        "queue", "queued", "scheduled", "backing", "off", "running", "completed", "failed", "oldest",
    ]  # fmt: skip
    assert [row.split()[:2] for row in rows] == [["later", "1"], ["other", "1"]]


def test_a_pipeline_without_jobs_says_so() -> None:
    write(HELLO)
    leave()
    assert run("queues").out == "no stage leaves jobs, and there are none\n"


def test_queues_are_shown_while_redis_is_down() -> None:
    write(redis("redis://:secret@127.0.0.1:1/0"))
    leave(NewJob("a", "later", stage="log"))
    found = run("queues", "--json").json
    assert found["queues"][0]["queued"] == 1
    assert found["queues"][0]["hints"] is None
    assert found["transport"]["url"] == "redis://:***@127.0.0.1:1/0"
    shown = run("queues")
    assert shown.code == 0
    assert "queue is unavailable" in shown.out
    assert "secret" not in shown.out


def test_before_the_first_run_the_queues_are_shown_empty() -> None:
    write(ASYNC)
    found = run("queues", "--json").json
    assert [(row["name"], row["queued"]) for row in found["queues"]] == [("later", 0)]
    assert (found["outbox"]["waiting"], found["outbox"]["refused"], found["outbox"]["error"]) == (0, 0, None)
    assert not Path(".pipeline").exists()


def test_a_queue_that_is_nowhere_is_a_mistake_and_one_that_only_has_jobs_is_none() -> None:
    write(ASYNC)
    ran = run("queues", "jobs", "latr")
    assert (ran.code, ran.err) == (2, "error: there is no queue 'latr'; did you mean 'later'?\n")
    leave(NewJob("c", "other", stage="log"))
    assert run("queues", "jobs", "other").out.endswith("1 job\n")
    assert run("queues", "jobs", "other", "--state", "failed").out == "0 failed runs\n"
    assert run("queues", "jobs", "none", "--state", "failed").code == 2


def test_the_jobs_of_a_queue_are_listed_with_how_they_stand() -> None:
    write(ASYNC)
    assert run("queues", "jobs").out == "0 jobs\n"
    later = datetime(2999, 1, 1, tzinfo=UTC)
    leave(
        NewJob("b", "later", stage="log", due_at=later),
        NewJob("a", "later", stage="log"),
        NewJob("c", "other", stage="log"),
    )
    found = run("queues", "jobs", "later", "--json").json
    assert found["total"] == 2
    assert [(job["id"], job["state"], job["tries"], job["due_at"]) for job in found["jobs"]][1] == (
        "b", "scheduled", 0, "2999-01-01T00:00:00Z",
    )  # fmt: skip
    shown = run("queues", "jobs", "--limit", "2").out.splitlines()
    assert shown[0].split() == ["id", "queue", "stage", "state", "tries", "due_at", "owner", "error"]
    assert shown[-1] == "2 of 3 jobs"
    assert run("queues", "jobs", "--state", "queued").out.endswith("2 jobs\n")
    assert run("queues", "jobs", "--state", "failed").out == "0 failed runs\n"
    ran = run("queues", "jobs", "--state", "stuck")
    assert ran.code == 2
    assert "no job is 'stuck'; it is one of queued, scheduled, backing_off, running, failed" in ran.err


# While somebody is changing the file


def test_queues_are_shown_though_the_file_is_wrong_elsewhere() -> None:
    write(redis("redis://127.0.0.1:1/0", ASYNC.replace('stages = ["log"]', 'stages = ["lgo"]')))
    leave(NewJob("a", "later", stage="log"))
    ran = run("queues", "--json")
    assert ran.code == 0
    assert "warning: pipeline.toml has " in ran.err
    assert [(row["name"], row["queued"]) for row in ran.json["queues"]] == [("later", 1)]
    assert run("dead-letters", "list").out == "0 dead letters\n"
    assert run("stats").code == 1  # no runner runs


def test_what_redis_holds_is_not_asked_where_its_place_is_wrong() -> None:
    write(ASYNC + '[jobs]\nulr = "redis://h/0"\nurl = "http://h"\n')
    ran = run("queues")
    assert ran.code == 0
    assert "no hints are shown: jobs.url: " in ran.out


# What is refused


@pytest.mark.parametrize(("jobs", "words"), [("", "no queue"), ("\n[jobs]\n", "within the runner's own process")])
def test_a_worker_without_redis_is_refused_and_told_of_redis_url(jobs: str, words: str) -> None:
    write(ASYNC + jobs)
    ran = run("worker")
    assert ran.code == 2
    assert words in ran.err
    assert "REDIS_URL" in ran.err


def test_an_unknown_queue_is_refused_with_the_nearest_name() -> None:
    write(redis("redis://127.0.0.1:1/0"))
    ran = run("worker", "--queue", "latter")
    assert ran.code == 2
    assert "there is no queue 'latter'; did you mean 'later'?" in ran.err


def test_a_runner_may_not_leave_an_embedded_queue_to_nobody() -> None:
    write(ASYNC + "\n[jobs]\n")
    ran = process("run", "--no-worker")
    assert ran.returncode == 2
    assert "nobody would run those of later: set REDIS_URL" in ran.stderr
    assert "Traceback" not in ran.stderr


# Processes


@pytest.mark.slow
def test_without_redis_the_runner_runs_the_jobs_itself_also_without_a_worker() -> None:
    write(ASYNC)
    with running("--no-worker") as runner:
        runner.says("another terminal")
        assert "queues    later (200 at once)" in runner.err
        assert process("publish", "hello.you", "--id", "a-1").returncode == 0
        runner.says("hello.you id=a-1")
        runner.signal(signal.SIGTERM)
        assert runner.ends() == 0
    (row,) = run("queues", "--json").json["queues"]
    assert (row["completed"], row["queued"]) == (1, 0)


class Worker(Running):
    command = "worker"


@pytest.mark.slow
def test_a_worker_runs_what_a_runner_leaves_and_says_what_it_serves(redis_url: str) -> None:
    mine(redis_url, "note")
    with running("--no-worker") as runner, Worker.up() as worker:
        runner.says("another terminal")
        assert "queues    left to workers" in runner.err
        worker.says("Ctrl-C stops it")
        worker.says("queues    later (200 at once)")
        assert process("publish", "hello.you", "--id", "a-1").returncode == 0
        worker.says("noted a-1")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
        assert "SIGTERM: stopping; " in worker.err
        assert " in flight, grace 25 s" in worker.err
        assert "noted" not in runner.out
    eventually(lambda: run("queues", "--json").json["queues"][0]["completed"] == 1, "the figures")
    assert run("queues", "--json").json["queues"][0]["hints"] == 0


@pytest.mark.slow
def test_a_second_interrupt_ends_a_worker_at_once_and_another_takes_its_job_over(redis_url: str) -> None:
    mine(redis_url, "slow")
    with running("--no-worker") as runner, Worker.up() as worker:
        runner.says("another terminal")
        assert process("publish", "hello.you", "--id", "a-1").returncode == 0
        worker.says("began")
        worker.signal(signal.SIGINT)
        worker.says("SIGINT: stopping; 1 in flight")
        worker.signal(signal.SIGINT)
        assert worker.ends() == 130
        with Worker.up() as next_worker:
            next_worker.says("began")
    assert "Traceback" not in worker.err


@pytest.mark.slow
def test_a_refused_login_ends_it_with_the_names_of_what_to_check(redis_url: str) -> None:
    write(redis(redis_url.replace("//", "//nobody:wrong@")))
    for command in ("worker", "run"):
        ran = process(command)
        assert ran.returncode == 2
        assert "[jobs]" in ran.stderr
        assert "REDIS_URL" in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_redis_that_is_away_at_the_start_is_waited_for() -> None:
    write(redis("redis://127.0.0.1:1/0"))
    with Worker.up() as worker:
        worker.says("jobs wait in the database until Redis is back")
        worker.says("Ctrl-C stops it")
        worker.signal(signal.SIGINT)
        assert worker.ends() == 0
    assert "Traceback" not in worker.err
