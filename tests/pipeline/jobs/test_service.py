"""The service has jobs run, from the commit that leaves them to the one that settles them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pipeline.config.models import QueueTable
from pipeline.connectors import Outgoing
from pipeline.errors import UserError
from pipeline.jobs.arq_queue import ArqHints
from pipeline.jobs.contract import INLINE, Work
from pipeline.jobs.outbox import enqueue, publish
from pipeline.jobs.service import JobService, JobSettings
from pipeline.ledger.database import Database
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.jobs.hint_suite import eventually
from tests.pipeline.jobs.noted import NotedHints
from tests.pipeline.jobs.samples import PIPELINE, Done, Runner, job, jobs, leave, runs

Start = Callable[..., Any]


@pytest.fixture
async def broker() -> MemoryConnector:
    connector = MemoryConnector("memory://service", MemoryStore())
    await connector.connect()
    await connector.create_stream("st")
    return connector


@pytest.fixture
async def start(db: Database, broker: MemoryConnector) -> AsyncIterator[Start]:
    """Services are started by the runners of their stages and their settings, and stopped in the end."""
    started: list[JobService] = []

    async def start(runners: dict[str, Any], hints: Any = None, **settings: Any) -> JobService:
        service = JobService(db, broker, runners, JobSettings(PIPELINE, **settings), hints=hints)
        started.append(service)
        await service.start()
        return service

    yield start
    for service in started:
        await service.stop(0)


@pytest.fixture
def only_when_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that start after this look for jobs when they are woken, and by themselves once an hour."""
    monkeypatch.setattr("pipeline.jobs.service.NEAR", 3600.0)


@pytest.mark.parametrize("settings", [{}, {"use_queue": True, "queues": {"queue": QueueTable()}}])
async def test_a_job_runs_at_once_when_the_service_is_woken(
    db: Database, only_when_woken: None, start: Start, settings: dict[str, Any]
) -> None:
    runner = Done()
    service = await start({"stage": runner}, **settings)
    for number in range(5):
        async with db.write() as connection:
            await enqueue(connection, db.dialect, [job(f"j{number}")], pipeline=PIPELINE)
        service.wake()
        await eventually(lambda number=number: f"j{number}" in runner.ids, "it does not run")  # type: ignore[misc]


async def test_without_being_woken_it_looks_by_itself(db: Database, start: Start) -> None:
    runner = Done()
    await start({"stage": runner})
    await leave(db, job("a"))
    await eventually(lambda: runner.ids == ["a"], "it does not run")


async def test_a_queue_that_nobody_declared_is_served_too(db: Database, start: Start) -> None:
    runner = Done()
    service = await start({"stage": runner}, use_queue=True)
    await leave(db, job("a", "surprise"), job("b", INLINE))
    await eventually(lambda: sorted(runner.ids) == ["a", "b"], "they do not run")
    assert "surprise" in service.serves


async def test_only_the_queues_that_are_asked_for_are_served(db: Database, start: Start) -> None:
    runner = Done()
    tables = {"one": QueueTable(), "two": QueueTable()}
    service = await start({"stage": runner}, use_queue=True, queues=tables, serve=("one",), inline=False)
    await leave(db, job("a", "one"), job("b", "two"), job("c", INLINE))
    await eventually(lambda: runner.ids == ["a"], "it does not run")
    assert service.serves == ("one",)

    async with asyncio.timeout(5):
        while (await service.depths()).get("two") != 1:
            await asyncio.sleep(0.01)
    assert runner.ids == ["a"]
    assert (await jobs(db))["c"].hinted_at is None  # a runner's, which no worker tells of


async def test_a_runner_without_a_worker_still_runs_its_own_jobs(db: Database, start: Start) -> None:
    runner, hints = Done(), NotedHints()
    await start({"stage": runner}, hints, use_queue=True, queues={"one": QueueTable()}, serve=())
    await leave(db, job("a", "one"), job("b", INLINE))
    await eventually(lambda: runner.ids == ["b"] and hints.ids == ["a"], "they do not get there")


async def test_two_processes_with_queues_of_their_own_run_each_job_once(db: Database, start: Start) -> None:
    one, other = Done(), Done()
    await start({"stage": one})
    await start({"stage": other})
    await leave(db, *(job(f"{number:04}") for number in range(500)))
    await eventually(lambda: len(one.ids) + len(other.ids) >= 500, "they do not all run")
    assert len({*one.ids, *other.ids}) == len(one.ids) + len(other.ids) == 500


async def test_a_job_that_a_job_leaves_follows_at_once(db: Database, only_when_woken: None, start: Start) -> None:
    async def call(work: Work) -> None:
        async with work.transaction() as settlement:
            for each in work.jobs:
                settlement.done(each.id)
                if len(each.id) < 5:
                    settlement.enqueue(job(each.id + "x"))

    runner = Runner(call)
    service = await start({"stage": runner})
    await leave(db, job("x"))
    service.wake()
    await eventually(lambda: len(runner.ids) == 5, "they do not follow")


async def test_messages_that_jobs_leave_are_published(db: Database, broker: MemoryConnector, start: Start) -> None:
    service = await start({})
    async with db.write() as connection:
        await publish(connection, db.dialect, "st", [Outgoing(b"{}", "a.b", "m-1")], pipeline=PIPELINE)
    service.wake()

    async with asyncio.timeout(5):
        while (await broker.bounds("st")).last is None:
            await asyncio.sleep(0.01)


async def test_stopping_gives_back_what_does_not_end_in_time(db: Database, start: Start) -> None:
    runner = Done()
    runner.may_go_on.clear()
    service = await start({"stage": runner}, use_queue=True, queues={"queue": QueueTable()})
    await leave(db, job("a"))
    await eventually(lambda: service.in_flight == 1, "it does not begin")
    await service.stop(0.05)
    row = (await jobs(db))["a"]
    assert (row.state, row.hinted_at, row.failures, row.lost) == ("queued", None, 0, 0)


async def test_stopping_lets_what_runs_come_to_its_end(db: Database, start: Start) -> None:
    runner = Done()
    runner.may_go_on.clear()
    service = await start({"stage": runner}, use_queue=True, queues={"queue": QueueTable()})
    await leave(db, job("a"))
    await eventually(lambda: service.in_flight == 1, "it does not begin")
    stopping = asyncio.create_task(service.stop(10))
    await asyncio.sleep(0)
    runner.may_go_on.set()
    await stopping
    assert await jobs(db) == {}
    assert [run.state for run in await runs(db)] == ["completed"]


async def test_runs_are_trimmed(db: Database, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.jobs import service

    monkeypatch.setattr(service, "_TRIM_SECONDS", 0.05)
    runner = Done()
    await start({"stage": runner}, queues={"queue": QueueTable(keep_completed=3)})
    await leave(db, *(job(f"{number}") for number in range(20)))
    await eventually(lambda: len(runner.ids) == 20, "they do not run")
    async with asyncio.timeout(5):
        while len(await runs(db)) > 3:
            await asyncio.sleep(0.02)


async def test_a_wrong_url_is_refused(db: Database, broker: MemoryConnector) -> None:
    with pytest.raises(UserError):
        JobService(db, broker, {"stage": Done()}, JobSettings(PIPELINE, use_queue=True, url="redis://h/0?nonsense=1"))


async def test_jobs_run_when_hints_are_lost_on_their_way(
    db: Database, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints, runner = ArqHints(None), Done()
    hints.is_local = False  # as Redis: nobody knows who put a hint
    put = hints.put
    lost: list[list[str]] = []

    async def lose_the_first(queue: str, batches: Any) -> None:
        if lost:
            await put(queue, batches)
        else:
            lost.extend(batches)

    monkeypatch.setattr(hints, "put", lose_the_first)
    await start({"stage": runner}, hints, use_queue=True, queues={"queue": QueueTable()})
    await leave(db, job("a"))
    await eventually(lambda: runner.ids == ["a"], "it is lost")
    assert lost == [["a"]]
