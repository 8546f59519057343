"""The relay tells the queue of each due job once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import INLINE
from pipeline.jobs.hints import Backlog
from pipeline.jobs.lanes import Carries, Lane
from pipeline.jobs.relay import Relay
from pipeline.ledger.database import Database
from tests.pipeline.jobs.noted import NotedHints
from tests.pipeline.jobs.samples import NOON, PIPELINE, Moment, job, jobs, leave


def relay_of(db: Database, moment: Moment, hints: NotedHints, carries: Carries = Carries.ALL, **options: Any) -> Relay:
    options.setdefault("owner", "me")
    options.setdefault("concurrency", lambda queue: 100)
    return Relay(db, Lane(hints, carries), Clock(moment), pipeline=PIPELINE, **options)


async def test_due_jobs_are_told_of_once_in_the_order_in_which_they_are_due(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    relay = relay_of(db, moment, hints)
    await leave(db, job("b", due_at=NOON - timedelta(seconds=1)), job("a"), job("c", due_at=NOON - timedelta(hours=1)))
    await relay.round()
    await relay.round()
    assert hints.put_in == [("queue", ["c", "b", "a"])]
    assert {row.hinted_at for row in (await jobs(db)).values()} == {NOON}


async def test_a_job_that_is_not_due_yet_is_told_of_when_it_is(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    relay = relay_of(db, moment, hints)
    await leave(db, job("later", due_at=NOON + timedelta(seconds=10)))
    assert await relay.round() is None
    moment.pass_by(9.75)
    assert await relay.round() == 0.25
    assert hints.ids == []
    moment.pass_by(0.25)
    await relay.round()
    assert hints.ids == ["later"]


async def test_a_hint_holds_a_hundred_jobs_at_most_and_no_more_than_a_worker_runs_at_once(
    db: Database, moment: Moment
) -> None:
    hints = NotedHints()
    relay = relay_of(db, moment, hints, concurrency=lambda queue: 3 if queue == "slow" else 1_000)
    await leave(
        db, *(job(f"f{number}", "fast") for number in range(250)), *(job(f"s{number}", "slow") for number in range(7))
    )
    await relay.round()
    assert [(queue, len(ids)) for queue, ids in hints.put_in] == [
        ("fast", 100), ("fast", 100), ("fast", 50), ("slow", 3), ("slow", 3), ("slow", 1),
    ]  # fmt: skip


async def test_more_than_one_round_can_tell_of_is_told_of_at_once_after(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    relay = relay_of(db, moment, hints)
    await leave(db, *(job(f"{number:05}") for number in range(2_500)))
    assert await relay.round() == 0.0
    assert await relay.round() is None
    assert len(set(hints.ids)) == len(hints.ids) == 2_500


async def test_a_lane_is_told_only_of_its_own_queues(db: Database, moment: Moment) -> None:
    own, others = NotedHints(), NotedHints()
    await leave(db, job("i", INLINE), job("o", "other"))
    await relay_of(db, moment, own, Carries.INLINE).round()
    await relay_of(db, moment, others, Carries.OTHERS).round()
    assert (own.ids, others.ids) == (["i"], ["o"])


async def test_a_full_queue_is_told_of_no_more_until_there_is_room_and_keeps_no_other_back(
    db: Database, moment: Moment
) -> None:
    hints = NotedHints()
    relay = relay_of(db, moment, hints)
    hints.backlog = Backlog(1_000, 1.0)
    await leave(db, job("first", "full"))
    await relay.round()
    await leave(db, job("second", "full"), job("other", "free"))
    await relay.round()
    assert hints.ids == ["first", "other"]
    hints.backlog = Backlog(999, 1.0)
    await relay.round()
    assert hints.ids == ["first", "other", "second"]


async def test_what_the_queue_did_not_take_is_told_of_again(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    relay = relay_of(db, moment, hints)
    await leave(db, job("a"))
    hints.loses_puts = True
    await relay.round()
    assert (await jobs(db))["a"].hinted_at is None
    hints.loses_puts = False
    await relay.round()
    assert hints.ids == ["a"]


async def test_nothing_is_marked_while_the_queue_is_away(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    hints.is_up = False
    await leave(db, job("a"))
    await relay_of(db, moment, hints).round()
    assert (await jobs(db))["a"].hinted_at is None


@pytest.mark.parametrize(("local", "owner"), [(True, "me"), (False, None)])
async def test_hints_that_no_other_process_can_see_are_noted_as_its_own(
    db: Database, moment: Moment, local: bool, owner: str | None
) -> None:
    await leave(db, job("a"))
    await relay_of(db, moment, NotedHints(local=local)).round()
    assert (await jobs(db))["a"].owner == owner


async def test_relays_side_by_side_tell_of_each_job_once(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    relays = [relay_of(db, moment, hints) for _ in range(4)]
    await leave(db, *(job(f"{number:05}") for number in range(5_000)))
    for _ in range(8):
        await asyncio.gather(*(relay.round() for relay in relays))
    assert len(hints.ids) == len(set(hints.ids)) == 5_000


async def test_whoever_serves_a_queue_meets_it_before_its_first_hint(db: Database, moment: Moment) -> None:
    hints, met = NotedHints(), list[tuple[str, int]]()
    await leave(db, job("a", "new"))
    await relay_of(db, moment, hints, meet=lambda queue: met.append((queue, len(hints.ids)))).round()
    assert met == [("new", 0)]
