"""`migrate`, `stats` and `dead-letters`: what the database tells."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from pipeline.events import Outcome
from pipeline.ledger.database import Database
from pipeline.ledger.tables import DeadLetter, Instance
from pipeline.stats import InstanceStats, SourceStats
from tests.pipeline.cli.support import HELLO, PROGRAM, run, write

NOW = datetime(2026, 3, 1, 12, 30, 15, 999, tzinfo=UTC)
URL = "sqlite:///.pipeline/pipeline.db"


def insert(*rows: Any) -> None:
    """Write rows as the runner does."""

    async def write_rows() -> None:
        database = Database(URL)
        async with database.write() as connection, AsyncSession(bind=connection) as session:
            session.add_all(rows)
            await session.flush()
        await database.close()

    asyncio.run(write_rows())


def letter(**values: Any) -> DeadLetter:
    defaults: dict[str, Any] = {
        "source": "events", "group": "hello", "stream": "events", "incarnation": 0, "offset": 7,
        "message_timestamp": 1_700_000_000_000, "event_id": "e-7", "routing_key": "hello.you", "route": "hello.*",
        "stage": "log", "kind": "rejected", "reason": "no such\nthing", "attempts": 1, "body": b'{"a": [1]}',
        "headers": {"tenant": "x"}, "content_type": "application/json", "first_at": NOW, "last_at": NOW,
    }  # fmt: skip
    return DeadLetter(**defaults | values)


@pytest.fixture
def database() -> None:
    write(HELLO)
    assert run("migrate").code == 0


def test_migrate_says_what_it_applied_and_then_that_all_is_up_to_date() -> None:
    write(HELLO)
    first = run("migrate")
    assert first.code == 0
    assert first.out.startswith(f"{URL} was migrated to:\n  core 0001\n")
    assert run("migrate").out == f"{URL} is up to date\n"


def test_migrate_check_changes_nothing_and_exits_1_where_something_is_missing() -> None:
    write(HELLO)
    before = run("migrate", "--check", "--json")
    assert (before.code, before.json["up_to_date"]) == (1, False)
    assert before.json["revisions"][0] == "core 0001"
    assert not Path(".pipeline/pipeline.db").exists()
    run("migrate")
    after = run("migrate", "--check", "--json")
    assert (after.code, after.json) == (0, {"database": URL, "up_to_date": True, "revisions": []})


def test_migrate_on_postgresql(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(HELLO)
    monkeypatch.setenv("DATABASE_URL", postgres)
    assert run("migrate", "--check").code == 1
    assert run("migrate").code == 0
    assert run("migrate", "--check").code == 0


@pytest.mark.usefixtures("database")
def test_the_newest_dead_letters_come_first_and_can_be_paged() -> None:
    insert(*(letter(offset=number, kind="a" if number % 2 else "b") for number in range(5)))
    page = run("dead-letters", "list", "--limit", "2", "--json").json
    assert (page["total"], [row["id"] for row in page["dead_letters"]]) == (5, [5, 4])
    page = run("dead-letters", "list", "--limit", "2", "--before", "4", "--json").json
    assert [row["id"] for row in page["dead_letters"]] == [3, 2]
    page = run("dead-letters", "list", "--kind", "a", "--json").json
    assert (page["total"], [row["offset"] for row in page["dead_letters"]]) == (2, [3, 1])


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("field", ["source", "route", "stage", "kind"])
def test_dead_letters_can_be_chosen(field: str) -> None:
    insert(letter(), letter(offset=8, **{field: "other"}))
    chosen = run("dead-letters", "list", f"--{field}", "other", "--json").json["dead_letters"]
    assert [row["offset"] for row in chosen] == [8]


@pytest.mark.usefixtures("database")
def test_the_list_for_people_has_a_line_each_and_the_number() -> None:
    insert(letter(), letter(offset=8, routing_key=None, route="", stage="", reason="\x1b[31mred"))
    header, newest, oldest, count = run("dead-letters", "list").out.splitlines()
    assert header.split()[:4] == ["id", "last_at", "source", "offset"]
    assert "\\x1b[31mred" in newest
    assert "no such thing" in oldest
    assert "2026-03-01T12:30:15Z" in oldest
    assert count == "2 dead letters"
    assert run("dead-letters", "list", "-n", "1").out.endswith("1 of 2 dead letters\n")


@pytest.mark.usefixtures("database")
def test_no_dead_letters_are_no_mistake() -> None:
    done = run("dead-letters", "list")
    assert (done.code, done.out) == (0, "0 dead letters\n")


@pytest.mark.usefixtures("database")
def test_a_dead_letter_is_shown_with_headers_and_json_body() -> None:
    insert(letter())
    shown = run("dead-letters", "show", "1")
    assert "reason        no such\nthing" in shown.out
    assert "header        tenant: x" in shown.out
    assert shown.out.endswith('{\n  "a": [\n    1\n  ]\n}\n')
    as_json = run("dead-letters", "show", "1", "--json").json
    assert (as_json["body"], as_json["body_encoding"]) == ('{"a": [1]}', "text")
    assert as_json["headers"] == {"tenant": "x"}


@pytest.mark.usefixtures("database")
def test_a_dead_letter_says_where_in_the_code_it_failed() -> None:
    trace = 'Traceback (most recent call last):\n  File "orders.py", line 42, in check\nValueError: no \x1b[31m'
    insert(letter(place="orders.py:check", traceback=trace), letter(offset=8))
    shown = run("dead-letters", "show", "1").out
    assert "\nwhere         orders.py:check\n" in shown
    assert '\ntraceback       File "orders.py", line 42, in check\ntraceback     ValueError: no \\x1b[31m\n' in shown
    as_json = run("dead-letters", "show", "1", "--json").json
    assert (as_json["where"], as_json["traceback"]) == ("orders.py:check", trace)
    nowhere = run("dead-letters", "show", "2")
    assert "\nwhere         -\n" in nowhere.out
    assert "traceback" not in nowhere.out
    assert [row["where"] for row in run("dead-letters", "list", "--json").json["dead_letters"]] == [
        None, "orders.py:check",
    ]  # fmt: skip


@pytest.mark.usefixtures("database")
def test_a_body_that_is_no_text_is_shown_in_hex_and_given_as_base64() -> None:
    body = b"\xff\x00AMQP" + bytes(range(20))
    insert(letter(body=body))
    shown = run("dead-letters", "show", "1").out.splitlines()
    assert shown[-2].startswith("00000000  ff 00 41 4d 51 50 00")
    assert shown[-2].endswith("..AMQP..........")
    as_json = run("dead-letters", "show", "1", "--json").json
    assert as_json["body_encoding"] == "base64"
    assert base64.b64decode(as_json["body"]) == body


@pytest.mark.usefixtures("database")
def test_raw_writes_the_bytes_and_nothing_else() -> None:
    body = bytes(range(256))
    insert(letter(body=body))
    done = subprocess.run([*PROGRAM, "dead-letters", "show", "1", "--raw"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, body, b"")


@pytest.mark.usefixtures("database")
def test_an_unknown_dead_letter_is_a_mistake() -> None:
    done = run("dead-letters", "show", "5")
    assert (done.code, done.err[:29]) == (2, "error: there is no dead lette")


def instance(**values: Any) -> Instance:
    source = SourceStats("events", "running", last_message_time=NOW, prefix=41, in_flight=3)
    source.outcomes[Outcome.HANDLED], source.outcomes[Outcome.DEAD] = 40, 2
    source.last_error = "no such thing"
    stats = InstanceStats.of({"events": source}, running=True).as_json()
    defaults: dict[str, Any] = {
        "id": "me", "pipeline": "hello", "host": socket.gethostname(), "pid": os.getpid(), "started_at": NOW,
        "beat_at": datetime.now(UTC), "stats": stats,
    }  # fmt: skip
    return Instance(**defaults | values)


@pytest.mark.usefixtures("database")
def test_stats_have_the_names_that_dashboards_know() -> None:
    insert(instance(), instance(id="other", pipeline="not mine"))
    done = run("stats", "--json")
    assert done.code == 0
    (one,) = done.json["instances"]
    assert {name: one[name] for name in one if name.startswith(("running", "messages", "is_", "last"))} == {
        "running": True,
        "messages_processed": 42,
        "messages_succeeded": 40,
        "messages_failed": 2,
        "is_healthy": True,
        "last_message_time": "2026-03-01T12:30:15Z",
        "last_error": "no such thing",
    }
    assert one["sources"]["events"]["outcomes"]["dead"] == 2


@pytest.mark.usefixtures("database")
def test_the_lag_counts_what_lies_behind_the_progress() -> None:
    assert run("publish", "hello.a", "--file", "-", stdin="{}\n" * 50).code == 0
    insert(instance())
    assert run("stats", "--json").json["instances"][0]["sources"]["events"]["lag"] == 8
    row = run("stats").out.splitlines()[-1].split()
    assert row == ["events", "running", "-", "40", "0", "0", "2", "3", "41", "0", "8"]


@pytest.mark.usefixtures("database")
def test_a_broker_that_is_away_leaves_the_lag_unknown() -> None:
    write(HELLO + '[broker]\nurl = "rabbitmq-stream://guest@127.0.0.1:1"\n')
    insert(instance())
    done = run("stats", "--json")
    assert done.json["instances"][0]["sources"]["events"]["lag"] is None
    assert "?" in run("stats").out.splitlines()[-1]


@pytest.mark.usefixtures("database")
def test_no_sign_of_life_exits_1() -> None:
    insert(instance(beat_at=NOW))
    done = run("stats")
    assert (done.code, done.out[:27]) == (1, "no runner of pipeline 'hell")
    found = run("stats", "--json").json
    assert (found["pipeline"], found["instances"], found["outbox"]["waiting"]) == ("hello", [], 0)


@pytest.mark.usefixtures("database")
def test_a_runner_that_is_not_healthy_exits_1() -> None:
    insert(instance(stats=instance().stats | {"is_healthy": False}))
    done = run("stats")
    assert done.code == 1
    assert "NOT healthy" in done.out
