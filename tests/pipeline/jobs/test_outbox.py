"""Jobs and messages that are left with a transaction are there when it is committed, once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.connectors import Outgoing
from pipeline.jobs.contract import NewJob
from pipeline.jobs.outbox import enqueue, job_row, publish, withdraw
from pipeline.ledger.database import Database
from pipeline.ledger.rows import RowWriter
from tests.pipeline.jobs.samples import NOON, PIPELINE, job, jobs, leave, messages


async def test_a_job_that_is_left_waits_to_be_told_of(db: Database) -> None:
    await leave(db, job("a", payload={"kind": "execute"}), job("b", due_at=NOON + timedelta(hours=1)))

    found = await jobs(db)
    assert found["a"].state == "queued"
    assert found["a"].hinted_at is None
    assert found["a"].payload == {"kind": "execute"}
    assert found["a"].due_at == NOON
    assert found["b"].due_at == NOON + timedelta(hours=1)


async def test_a_job_whose_id_is_there_is_left_as_it_is(db: Database) -> None:
    await leave(db, job("a", payload={"first": True}))
    await leave(db, job("a", payload={"first": False}), job("b"))

    found = await jobs(db)
    assert found["a"].payload == {"first": True}
    assert set(found) == {"a", "b"}


async def test_what_is_rolled_back_leaves_no_job(db: Database) -> None:
    async def leave_and_fail() -> None:
        async with db.write() as connection:
            await enqueue(connection, db.dialect, [job("a")], pipeline=PIPELINE)
            raise KeyError

    with pytest.raises(KeyError):
        await leave_and_fail()

    assert await jobs(db) == {}


async def test_a_jobs_row_is_written_among_a_units_rows(db: Database) -> None:
    rows = [
        job_row(job("a"), NOON, PIPELINE),
        job_row(job("a", payload={"again": True}), NOON, PIPELINE),
        job_row(job("b"), NOON, PIPELINE),
    ]
    async with db.write() as connection:
        await RowWriter(db.dialect).write_rows(connection, rows)

    found = await jobs(db)
    assert set(found) == {"a", "b"}
    assert found["a"].payload == {}


def test_a_job_without_a_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="names no stage"):
        job_row(NewJob("a", "queue"), NOON, PIPELINE)


async def test_jobs_are_withdrawn_whoever_has_them(db: Database) -> None:
    await leave(db, job("a"), job("b"), job("c"))
    async with db.write() as connection:
        assert await withdraw(connection, ["a", "c", "unknown"]) == 2

    assert set(await jobs(db)) == {"b"}


async def test_a_message_that_waits_already_is_not_left_twice(db: Database) -> None:
    first = Outgoing(b'{"a": 1}', "governance.task.created", "m1", {"x": 1})
    async with db.write() as connection:
        await publish(connection, db.dialect, "stream.a", [first, Outgoing(b"{}", "other", "m2")], pipeline=PIPELINE)
        await publish(connection, db.dialect, "stream.a", [Outgoing(b"{}", "other", "m1")], pipeline=PIPELINE)
        await publish(connection, db.dialect, "stream.b", [Outgoing(b"{}", "other", "m1")], pipeline=PIPELINE)

    found = await messages(db)
    places = [(each.stream, each.message_id) for each in found]
    assert places == [("stream.a", "m1"), ("stream.a", "m2"), ("stream.b", "m1")]
    assert (found[0].body, found[0].headers, found[0].content_type) == (b'{"a": 1}', {"x": 1}, "application/json")
