"""`stats`: who runs, who is unwell and why, and who went without taking leave."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.connectors import Outgoing
from pipeline.jobs.outbox import publish
from pipeline.ledger.database import Database
from pipeline.ledger.instances import Instances
from pipeline.ledger.migrations import migrate
from pipeline.ledger.tables import Instance
from pipeline.stats import ConnectionStats, InstanceStats, SourceStats
from tests.pipeline.cli.support import HELLO, run, write

STARTED = datetime(2026, 1, 31, tzinfo=UTC)
DATABASE = "sqlite:///stats.db"


@pytest.fixture(autouse=True)
def _file() -> None:
    write(f'{HELLO}\n[database]\nurl = "{DATABASE}"\n')


def runner(state: str = "running", reason: str = "", **more: Any) -> dict[str, Any]:
    return InstanceStats.of({"events": SourceStats("events", state, reason)}, running=True, **more).as_json()


def beats(*stats: dict[str, Any], gone_for: float = 0.0) -> None:
    """Let each process give a sign of life; the first one's is this many seconds old."""

    async def beat() -> None:
        database = Database(DATABASE)
        await migrate(database)
        for number, each in enumerate(stats):
            one = Instance(id=f"i{number}", pipeline="hello", host="vm", pid=number, started_at=STARTED, stats=each)
            await Instances(database).beat(one)
        if gone_for:
            ago = datetime.now(UTC) - timedelta(seconds=gone_for)
            async with database.write() as connection:
                await connection.execute(update(Instance).where(Instance.id == "i0").values(beat_at=ago))  # type: ignore[arg-type]
        await database.close()

    asyncio.run(beat())


def test_a_runner_and_a_worker_that_are_well_exit_0() -> None:
    up = {"database": ConnectionStats("up", STARTED)}
    beats(runner(connections=up), InstanceStats.of({}, running=True, kind="worker", jobs_in_flight=3).as_json())
    shown = run("stats")
    assert shown.code == 0
    assert "runner on vm, pid 0, since 2026-01-31T00:00:00Z: healthy" in shown.out
    assert "worker on vm, pid 1, since 2026-01-31T00:00:00Z: healthy" in shown.out
    assert "database    up     2026-01-31T00:00:00Z" in shown.out
    assert "jobs_in_flight       3" in shown.out


def test_one_that_is_unwell_exits_1_and_says_why() -> None:
    down = {"temporal": ConnectionStats("down", STARTED, "no answer within 10 s")}
    beats(runner("paused", "temporal is unavailable", connections=down))
    shown = run("stats")
    assert shown.code == 1
    assert "NOT healthy" in shown.out
    assert "temporal is down: no answer within 10 s; source events is paused: temporal is unavailable" in shown.out


def test_one_that_was_killed_is_gone_and_not_healthy() -> None:
    beats(runner(), runner(), gone_for=10)
    shown = run("stats", "--json")
    assert shown.code == 1
    gone, alive = sorted(shown.json["instances"], key=lambda one: not one["gone"])
    assert (gone["gone"], gone["is_healthy"], gone["running"]) == (True, False, False)
    assert gone["reason"].startswith("no sign of life since ")
    assert (alive["gone"], alive["is_healthy"]) == (False, True)
    assert ": GONE" in run("stats").out


def test_one_that_went_long_ago_is_forgotten() -> None:
    beats(runner(), runner(), gone_for=100)
    shown = run("stats", "--json")
    assert shown.code == 0
    assert [one["instance"] for one in shown.json["instances"]] == ["i1"]


def test_workers_alone_read_no_events() -> None:
    beats(InstanceStats.of({}, running=True, kind="worker").as_json())
    assert run("stats").code == 1


def test_messages_that_wait_long_to_be_published_are_told_of_with_their_streams() -> None:
    beats(runner())
    assert "outbox" not in run("stats").out

    async def leave() -> None:
        database = Database(DATABASE)
        message, ago = Outgoing(b"{}", "a", "m", {}), datetime.now(UTC) - timedelta(minutes=3)
        async with database.write() as connection:
            await publish(connection, database.dialect, "nosuch.dl", [message], ago, pipeline="hello")
        await database.close()

    asyncio.run(leave())
    shown = run("stats")
    assert "outbox: 1 message for nosuch.dl not published, the oldest for 18" in shown.out
    assert "'pipeline check --live'" in shown.out
    assert run("stats", "--json").json["outbox"]["streams"] == ["nosuch.dl"]


def test_people_read_yes_no_and_a_dash() -> None:
    beats(runner())
    shown = run("stats").out
    assert "running              yes" in shown
    assert "last_error           -" in shown
    assert "None" not in shown
    assert "True" not in shown
