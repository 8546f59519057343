"""An alert is closed although the process that told it is gone: another one of its kind tells the end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from sqlalchemy import select, update

from pipeline.alarm import Alarm
from pipeline.config.models import PipelineTable
from pipeline.errors import Unavailable
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.instances import Instances
from pipeline.ledger.migrations import migrate
from pipeline.ledger.tables import Instance
from pipeline.stats import InstanceStats, SourceStats
from pipeline.watch import Watch
from pipeline.webhook import Webhook
from tests.pipeline.dispatch.harness import eventually

HOLD_OFF = 0.05


class Receiver:
    """What the webhook was told, and whether it answers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.away = False
        self.tried = ""

    async def post(self, id_: str, payload: dict[str, Any]) -> None:
        self.tried = payload["status"]
        if self.away:
            raise OSError("refused")
        self.told.append((payload["status"], payload["alert"]))

    @property
    def statuses(self) -> list[str]:
        return [status for status, _ in self.told]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    made = Receiver()
    monkeypatch.setattr(Webhook, "post", lambda self, *message: made.post(*message))
    monkeypatch.setitem(Alarm.__init__.__kwdefaults__, "look", 0.01)
    monkeypatch.setattr("pipeline.alarm._AROUND_SECONDS", 0.01)
    monkeypatch.setattr("pipeline.heartbeat._SECONDS", 0.1)
    return made


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/p.db")
    await migrate(database)
    yield database
    await database.close()


class Process:
    """A runner or worker, as far as it is watched."""

    def __init__(self, database: Database, kind: Any) -> None:
        self._database = database
        self._kind = kind
        self.source = SourceStats("s", state="running")
        self.tasks: list[asyncio.Task[None]] = []

    def stats(self) -> InstanceStats:
        return InstanceStats.of({"s": self.source}, running=True, kind=self._kind)

    def start(self) -> None:
        table = PipelineTable.model_validate(
            {"name": "p", "on_unhealthy": {"webhook": "http://x/", "hold_off": HOLD_OFF}}
        )
        self.tasks = Watch(self._database, table).start(self.stats, {})

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def process(database: Database, kind: str = "runner") -> AsyncIterator[Process]:
    made = Process(database, kind)
    made.start()
    try:
        yield made
    finally:
        await made.stop()


async def unwell(one: Process, receiver: Receiver) -> None:
    one.source.state = "paused"
    await eventually(lambda: receiver.statuses == ["unhealthy"])


async def test_the_next_process_tells_the_end_of_what_one_told_that_stopped(
    database: Database, receiver: Receiver
) -> None:
    async with process(database) as one:
        await unwell(one, receiver)
    assert await Instances(database).alive(3600) == []  # it took its leave
    async with process(database):
        await eventually(lambda: receiver.statuses == ["unhealthy", "healthy"])
    assert receiver.told[0][1] == receiver.told[1][1]


async def test_the_next_process_tells_the_end_of_what_one_told_that_was_killed(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Instances, *about: object) -> None:
        raise Unavailable("database", "killed processes write nothing")

    async with process(database) as one:
        await unwell(one, receiver)
        while not [row for row in await Instances(database).alive(3600) if row.stats.get("alerts")]:
            await asyncio.sleep(0.005)
        monkeypatch.setattr(Instances, "leave", never)
    async with process(database):
        await eventually(lambda: receiver.statuses == ["unhealthy", "healthy"])
    assert receiver.told[0][1] == receiver.told[1][1]


async def test_an_end_that_could_not_be_delivered_is_told_by_the_next_process(
    database: Database, receiver: Receiver
) -> None:
    async with process(database) as one:
        await unwell(one, receiver)
        receiver.away = True
        one.source.state = "running"
        await eventually(lambda: receiver.tried == "healthy")
    receiver.away = False
    async with process(database):
        await eventually(lambda: receiver.statuses == ["unhealthy", "healthy"])
    assert receiver.told[0][1] == receiver.told[1][1]


async def test_a_process_that_starts_after_a_weekend_tells_the_end(database: Database, receiver: Receiver) -> None:
    async with process(database) as one:
        await unwell(one, receiver)
    async with database.write() as connection:
        await connection.execute(update(Instance).values(beat_at=utcnow() - timedelta(days=3)))
    async with process(database):  # its first heartbeat, which purges, comes before its first look for open alerts
        await eventually(lambda: receiver.statuses == ["unhealthy", "healthy"])
    assert receiver.told[0][1] == receiver.told[1][1]


async def test_a_process_of_another_kind_tells_nothing_of_it(database: Database, receiver: Receiver) -> None:
    async with process(database, "worker") as one:
        await unwell(one, receiver)
    assert await Instances(database).inherit("p", "runner", math.inf) == {}
    assert await Instances(database).inherit("p", "worker", math.inf) == {receiver.told[0][1]: ANY}


async def test_a_process_without_an_open_alert_leaves_nothing(database: Database, receiver: Receiver) -> None:
    async with process(database):
        while not await Instances(database).alive():
            await asyncio.sleep(0.005)
    assert await database.fetch(Instance, select(Instance)) == []
