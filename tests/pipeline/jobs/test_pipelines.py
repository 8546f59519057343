"""Several pipelines may share a database: each sees to its own jobs and messages, and to no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.connectors import Outgoing
from pipeline.jobs.claims import Claims
from pipeline.jobs.clock import Clock
from pipeline.jobs.executor import Executor
from pipeline.jobs.figures import OutboxFigures, jobs_by_stage, outbox_figures, queue_figures
from pipeline.jobs.lanes import Carries, Lane
from pipeline.jobs.outbox import enqueue, publish
from pipeline.jobs.publisher import OutboxPublisher
from pipeline.jobs.relay import Relay
from pipeline.jobs.retention import trim_runs
from pipeline.jobs.sweeper import LostHints, LostWorkers
from pipeline.ledger.database import Database
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.contract.driver import read_all
from tests.pipeline.jobs.noted import NotedHints
from tests.pipeline.jobs.samples import NOON, PIPELINE, Done, Moment, job, jobs, leave, messages, runs

OTHER = "other"


@pytest.fixture
async def theirs(db: Database) -> str:
    """A job of another pipeline, on a queue and for a stage of the same names."""
    async with db.write() as connection:
        await enqueue(connection, db.dialect, [job("theirs")], NOON, pipeline=OTHER)
    return "theirs"


async def test_another_pipelines_jobs_are_not_claimed(
    db: Database, executor_of: Callable[..., Executor], theirs: str
) -> None:
    mine = await leave(db, job("mine"))
    runner, other = Done(), Done()
    await executor_of({"stage": runner}).run("queue", [*mine, theirs])
    assert runner.ids == mine
    await executor_of({"stage": other}, pipeline=OTHER).run("queue", [*mine, theirs])
    assert other.ids == [theirs]


async def test_the_queue_is_not_told_of_another_pipelines_jobs(db: Database, moment: Moment, theirs: str) -> None:
    await leave(db, job("mine"))
    hints = NotedHints()
    lane = Lane(hints, Carries.ALL)
    relay = Relay(db, lane, Clock(moment), pipeline=PIPELINE, owner="me", concurrency=lambda _: 100)
    await relay.round()
    assert hints.ids == ["mine"]


async def test_another_pipelines_lost_jobs_and_hints_are_left_to_it(db: Database, moment: Moment, theirs: str) -> None:
    clock, hints = Clock(moment), NotedHints()
    assert await Claims(db, "dead", clock, 30.0, pipeline=OTHER).take("queue", [theirs])
    assert await LostWorkers(db, clock, pipeline=PIPELINE, gone=lambda _: True).sweep() == 0
    assert await LostWorkers(db, clock, pipeline=OTHER, gone=lambda _: True).sweep() == 1
    lane = Lane(hints, Carries.ALL)
    await Relay(db, lane, clock, pipeline=OTHER, owner="them", concurrency=lambda _: 100).round()
    moment.pass_by(5)
    assert await LostHints(db, lane, clock, owner="me", pipeline=PIPELINE).sweep() == 0
    assert await LostHints(db, lane, clock, owner="them", pipeline=OTHER).sweep() == 1


async def test_another_pipelines_messages_are_left_to_it(db: Database) -> None:
    async with db.write() as connection:
        for pipeline in (OTHER, PIPELINE):
            await publish(connection, db.dialect, "st", [Outgoing(b"{}", "a.b", pipeline)], pipeline=pipeline)
    broker = MemoryConnector("memory://pipelines", MemoryStore())
    await broker.connect()
    await broker.create_stream("st")
    await OutboxPublisher(db, broker, pipeline=PIPELINE).round()
    assert [message.id for message in await read_all(broker, "st", 1)] == [PIPELINE]
    assert [message.message_id for message in await messages(db)] == [OTHER]
    waiting = await outbox_figures(db, OTHER)
    assert (waiting.waiting, waiting.refused, len(waiting.streams)) == (1, 0, 1)
    assert waiting.oldest_seconds is not None
    assert await outbox_figures(db, PIPELINE) == OutboxFigures()


async def test_figures_and_kept_runs_are_of_one_pipeline(
    db: Database, executor_of: Callable[..., Executor], theirs: str
) -> None:
    await executor_of({"stage": Done()}, pipeline=OTHER).run("queue", [theirs])
    await leave(db, job("mine"))
    (mine,) = await queue_figures(db, [], NOON, PIPELINE)
    (other,) = await queue_figures(db, [], NOON, OTHER)
    assert (mine.queued, mine.completed) == (1, 0)
    assert (other.queued, other.completed) == (0, 1)
    assert await jobs_by_stage(db, PIPELINE) == {"stage": (1, ["queue"])}
    assert await jobs_by_stage(db, OTHER) == {}
    assert await trim_runs(db, {}, PIPELINE) == 0
    assert len(await runs(db)) == 1
    assert set(await jobs(db)) == {"mine"}
