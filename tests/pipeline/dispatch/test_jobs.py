"""Jobs commit with the event that leaves them, once; async stages leave their events as jobs and are passed at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import Reject, Retry
from pipeline.events import Event
from pipeline.handlers import Context, Delivery
from pipeline.jobs.contract import Job, NewJob
from pipeline.jobs.stage_event import StageEvent, stage_event
from pipeline.ledger.job_tables import JobRow
from tests.pipeline.dispatch.harness import async_stage, batch_stage, bench, message, route, stage


async def leave(event: Event[Any], context: Context) -> None:
    context.enqueue(NewJob(f"job:{event.offset}:{context.attempt}", "mail", {"n": event.offset}))


def restored(row: JobRow) -> StageEvent:
    return stage_event(
        Job(row.id, row.queue, row.stage, row.payload, row.failures, row.lost, row.created_at, row.due_at)
    )


async def test_jobs_commit_with_their_event_and_belong_to_its_stage(tmp_path: Path) -> None:
    async with bench(tmp_path, [stage("one", leave)]) as b:
        await b.feed(message(0), message(1))
        await b.settle(2)
        found = await b.jobs()
    assert [(row.id, row.queue, row.stage, row.state, row.payload) for row in found] == [
        ("job:0:1", "mail", "one", "queued", {"n": 0}),
        ("job:1:1", "mail", "one", "queued", {"n": 1}),
    ]
    assert b.outcomes == {"handled": 2}


async def test_jobs_of_a_try_that_failed_are_discarded(tmp_path: Path) -> None:
    async def fail_once(event: Event[Any], context: Context) -> None:
        await leave(event, context)
        if context.attempt == 1:
            raise Retry("once more")

    async with bench(tmp_path, [stage("one", fail_once)]) as b:
        await b.feed(message(0))
        await b.settle(1)
        assert [row.id for row in await b.jobs()] == ["job:0:2"]


async def test_jobs_of_earlier_stages_are_kept_when_a_later_stage_fails_for_good(tmp_path: Path) -> None:
    async def fail(event: Event[Any], context: Context) -> None:
        await leave(event, context)
        raise Reject("never")

    async with bench(tmp_path, [stage("one", leave), stage("two", fail)]) as b:
        await b.feed(message(0))
        await b.settle(1)
        assert [(row.id, row.stage) for row in await b.jobs()] == [("job:0:1", "one")]
    assert b.outcomes == {"dead": 1}


async def test_events_of_a_batch_leave_jobs_of_their_own(tmp_path: Path) -> None:
    async def batch(deliveries: Sequence[Delivery]) -> list[BaseException | None]:
        for event, context in deliveries:
            await leave(event, context)
        return [Reject("no") if event.offset == 1 else None for event, _ in deliveries]

    async with bench(tmp_path, [batch_stage("one", batch)]) as b:
        await b.feed(*(message(offset) for offset in range(3)))
        await b.settle(3)
        assert [row.id for row in await b.jobs()] == ["job:0:1", "job:2:1"]


async def test_a_job_that_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    async def same(event: Event[Any], context: Context) -> None:
        context.enqueue(NewJob("same", "mail", {"n": event.offset}))

    async with bench(tmp_path, [stage("one", same)]) as b:
        await b.feed(message(0))
        await b.settle(1)
        await b.feed(message(1), message(2))
        await b.settle(3)
        assert [(row.id, row.payload) for row in await b.jobs()] == [("same", {"n": 0})]
    assert b.outcomes == {"handled": 3}


async def test_a_commit_with_jobs_is_announced_once_it_is_written(tmp_path: Path) -> None:
    seen: list[int] = []

    def on_jobs() -> None:
        with sqlite3.connect(tmp_path / "test.db") as reader:
            seen.append(reader.execute("SELECT count(*) FROM jobs").fetchone()[0])
        reader.close()

    async def odd(event: Event[Any], context: Context) -> None:
        if event.offset % 2:
            await leave(event, context)

    async with bench(tmp_path, [stage("one", odd)], on_jobs=on_jobs) as b:
        await b.feed(message(0))
        await b.settle(1)
        assert seen == []
        await b.feed(message(1))
        await b.settle(2)
        assert seen == [1]
        await b.feed(message(2))
        await b.settle(3)
        assert seen == [1]


async def test_an_async_stage_leaves_its_event_as_a_job_and_the_next_stage_runs_at_once(tmp_path: Path) -> None:
    ran: list[tuple[int, str]] = []

    async def after(event: Event[Any], context: Context) -> None:
        ran.append((event.offset, context.stage))

    stages = [async_stage("slow"), async_stage("mail", "mails"), stage("after", after)]
    async with bench(tmp_path, stages) as b:
        await b.feed(message(0, {"k": "a", "x": "ä"}, id="e-1", headers={"tenant": "t"}, content_type="text/x"))
        await b.settle(1)
        found = sorted(await b.jobs(), key=lambda row: row.stage)
    assert ran == [(0, "after")]
    assert b.outcomes == {"handled": 1}
    assert [(row.stage, row.queue) for row in found] == [("mail", "mails"), ("slow", "stages")]
    there = restored(found[1])
    assert (there.event.id, there.event.data, there.event.headers) == ("e-1", {"k": "a", "x": "ä"}, {"tenant": "t"})
    assert (there.event.routing_key, there.event.content_type) == ("a.b", "text/x")
    assert (there.route, there.group, there.key, there.incarnation) == ("#", "g", "a", b.lease.incarnation)
    assert (there.outcome, there.error) == (None, None)
    context = there.context("slow", 1)
    assert context.request_id == Context("slow", "#", "g", "e-1").request_id
    assert found[1].id == f"stage:{context.request_id}"


async def test_the_condition_of_an_async_stage_is_decided_before_the_job_is_left(tmp_path: Path) -> None:
    async with bench(tmp_path, [async_stage("big", when="data.n > 1")]) as b:
        await b.feed(*(message(offset, {"n": offset}) for offset in range(4)))
        await b.settle(4)
        assert sorted(restored(row).event.offset for row in await b.jobs()) == [2, 3]
    assert b.outcomes == {"handled": 4}


async def test_an_async_stage_in_finally_is_told_the_outcome_and_the_error(tmp_path: Path) -> None:
    async def fail_odd(event: Event[Any], context: Context) -> None:
        if event.offset % 2:
            raise Reject("it is odd", kind="odd")

    stages = [stage("one", fail_odd), async_stage("tell"), async_stage("dead", when="outcome == 'dead'")]
    async with bench(tmp_path, stages, [route(["one"], ["tell", "dead"])]) as b:
        await b.feed(message(0), message(1))
        await b.settle(2)
        found = [(row.stage, restored(row)) for row in await b.jobs()]
    told = sorted((name, there.event.offset, str(there.outcome), str(there.error)) for name, there in found)
    assert told == [("dead", 1, "dead", "it is odd"), ("tell", 0, "handled", "None"), ("tell", 1, "dead", "it is odd")]
    error = next(there.error for _, there in found if there.error)
    assert isinstance(error, Reject)
    assert error.kind == "odd"


async def test_an_event_that_is_delivered_again_leaves_its_job_once(tmp_path: Path) -> None:
    async with bench(tmp_path, [async_stage("slow")]) as b:
        await b.feed(message(0, id="same"))
        await b.settle(1)
        await b.feed(message(1, id="same"))
        await b.settle(2)
        assert len(await b.jobs()) == 1


async def test_an_async_stage_frees_its_lane_for_the_next_event_of_the_key(tmp_path: Path) -> None:
    async with bench(tmp_path, [async_stage("slow")]) as b:
        await b.feed(*(message(offset, {"k": "same"}) for offset in range(2000)))
        await b.settle(2000)
        assert len(await b.jobs()) == 2000


async def test_an_event_that_cannot_be_made_a_job_is_dead_and_the_others_go_on(tmp_path: Path) -> None:
    async with bench(tmp_path, [async_stage("slow")]) as b:
        await b.feed(message(0, headers={"odd": object()}), message(1))
        await b.settle(2)
        assert [restored(row).event.offset for row in await b.jobs()] == [1]
        (letter,) = await b.dead()
    assert (letter.stage, letter.offset, letter.attempts) == ("slow", 0, 0)
