"""`check --live`: what each service answers, and what to do about it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import live
from pipeline.jobs.contract import NewJob
from pipeline.jobs.outbox import enqueue
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from pipeline.plugins import load_plugins
from tests.pipeline.cli.support import HELLO, process, run, write

pytestmark = pytest.mark.slow  # each starts processes

CONTROL = HELLO.replace('"log"', '"workflow-control"')
RESOURCE = """
from typing import ClassVar
from pipeline import Resource, Unavailable, UserError, handler, hookimpl

class Thing(Resource):
    name = "thing"

    async def probe(self):
        {probe}

    def describe(self):
        return "thing at somewhere"

@handler("mine", resources=("thing",))
async def mine(event): pass

@hookimpl
def pipeline_resources():
    return [Thing]
"""
WITH_THING = HELLO.replace('name = "hello"', 'handlers = "thing.py"').replace('"log"', '"mine"')


def answers() -> dict[str, Any]:
    """The code under ``code``, and each service's answer by its name."""
    done = run("check", "--live", "--json")
    found = {answer["name"]: answer for answer in done.json["live"]}
    assert done.json["ok"] is (done.code == 0) is all(answer["ok"] for answer in found.values())
    return {"code": done.code, **found}


@pytest.fixture
def silence() -> Iterator[int]:
    """A port that takes connections, and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_the_embedded_default_is_fine_before_its_first_run_and_nothing_is_created() -> None:
    write(HELLO)
    found = answers()
    assert found["code"] == 0
    assert found["broker"]["message"] == "stream events will be created"
    assert found["database"]["message"] == "it will be created"
    assert not Path(".pipeline/pipeline.db").exists()


def test_a_stream_for_copies_of_dead_letters_is_asked_about_as_well() -> None:
    write(HELLO)
    run("publish", "hello.a")
    copying = HELLO.replace('group = "hello"', 'group = "hello"\ndead_letters = "nosuch.dl"')
    write(copying)
    found = answers()
    assert (found["code"], found["broker"]["message"].split("; ")[1]) == (0, "stream nosuch.dl will be created")
    write(copying + "[broker]\ncreate_streams = false\n")
    found = answers()
    assert (found["code"], found["broker"]["ok"]) == (1, False)
    assert "nosuch.dl" in found["broker"]["message"]


def test_jobs_that_nobody_runs_are_told_of() -> None:
    async def leave() -> None:
        database = Database("sqlite:///.pipeline/pipeline.db")
        await migrate(database, load_plugins().branches())
        jobs = [NewJob("a", "old", stage="gone"), NewJob("b", "old", stage="log"), NewJob("c", "new", stage="log")]
        async with database.write() as connection:
            await enqueue(connection, database.dialect, jobs, pipeline="hello")
        await database.close()

    write(HELLO + '[stage.log]\nasync = "new"\n')
    asyncio.run(leave())
    found = answers()["database"]
    assert (found["ok"], found["message"].split("; ")) == (True, [
        "its schema is up to date",
        "1 job on old of the stage gone, which is not configured: nobody runs them",
        "2 jobs on new, old of the stage log, and no stage uses old any more: workers that are told their queues by "
        "--queue must be told of it, too",
    ])  # fmt: skip


def test_a_queue_is_asked_where_jobs_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    write(HELLO)
    assert "queue" not in answers()
    write(HELLO + "[stage.log]\nasync = true\n")
    found = answers()
    assert found["code"] == 1
    assert found["queue"]["where"] == "redis://:***@127.0.0.1:1/0"
    assert "hunter2" not in found["queue"]["message"]
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0?no_such_option=1")
    assert "the URL of Redis can't be used" in answers()["queue"]["message"]


@pytest.mark.integration
def test_a_queue_that_answers_is_fine(redis_url: str) -> None:
    write(HELLO + f'[stage.log]\nasync = true\n[jobs]\nurl = "{redis_url}"\n')
    found = answers()
    assert (found["code"], found["queue"]["message"]) == (0, "it answers")


def test_what_is_there_is_told() -> None:
    write(HELLO)
    run("publish", "hello.a", "--file", "-", stdin="{}\n" * 3)
    run("migrate")
    shown = run("check", "--live").out
    assert "ok    broker: embedded://.pipeline/events.db: stream events holds offsets 0 to 2" in shown
    assert "ok    database: sqlite:///.pipeline/pipeline.db: its schema is up to date" in shown


def test_a_wrong_file_is_not_asked_about() -> None:
    write(HELLO.replace("log", "lgo"))
    done = run("check", "--live", "--json")
    assert (done.code, done.json["live"]) == (1, [])


def test_every_service_is_asked_whatever_the_others_say(silence: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIMIT", 0.5)
    write(
        CONTROL
        + f'[broker]\nurl = "rabbitmq-stream://guest:secret@127.0.0.1:{silence}"\n'
        + f'[database]\nurl = "postgresql://me:secret@127.0.0.1:{silence}/db"\n'
        + '[resource.temporal]\naddress = "127.0.0.1:1"\n'
    )
    done = run("check", "--live")
    assert done.code == 1
    lines = done.out.splitlines()[-3:]
    assert [line[:15] for line in lines] == ["FAIL  broker: r", "FAIL  database:", "FAIL  temporal:"]
    assert all("no answer within 0.5 s" in line for line in lines[:2])
    assert "secret" not in done.out + done.err


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("raise Unavailable('thing', 'connection refused')", "thing is unavailable: connection refused"),
        ("raise ValueError('surprise')", "ValueError: surprise"),
    ],
)
def test_a_resource_that_does_not_answer_fails_the_check(probe: str, message: str) -> None:
    write(WITH_THING)
    write(RESOURCE.replace("{probe}", probe).replace(", UserError", ""), "thing.py")
    found = answers()
    assert (found["code"], found["thing"]["ok"], found["thing"]["message"]) == (1, False, message)
    assert found["thing"]["where"] == "thing at somewhere"


def test_a_resource_that_answers_passes_the_check() -> None:
    write(WITH_THING)
    write(RESOURCE.replace("{probe}", "return").replace(", UserError", ""), "thing.py")
    found = answers()
    assert (found["code"], found["thing"]["message"]) == (0, "it answers")


def test_a_missing_stream_is_told_with_what_to_do(
    rabbitmq: Any, stream_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_BROKER_URL", rabbitmq.stream_url)
    write(HELLO.replace('"events"', f'"{stream_name}"'))
    found = answers()
    assert not found["broker"]["ok"]
    assert stream_name in found["broker"]["message"]
    assert found["database"]["ok"]


def test_a_schema_that_is_behind_is_told_with_what_to_do(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres)
    write(HELLO)
    found = answers()
    assert not found["database"]["ok"]
    assert found["database"]["message"].endswith("run 'pipeline migrate pipeline.toml'")
    run("migrate")
    assert answers()["database"]["message"] == "its schema is up to date"


def test_a_live_check_of_temporal_ends_its_process(temporal_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_HOST", temporal_address)
    write(CONTROL)
    done = process("check", "--live")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it answers" in done.stdout.splitlines()[-1]


def test_a_temporal_that_is_away_is_told() -> None:
    write(CONTROL + '[resource.temporal]\naddress = "127.0.0.1:1"\n')
    done = process("check", "--live")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("FAIL  temporal: Temporal at 127.0.0.1:1")
