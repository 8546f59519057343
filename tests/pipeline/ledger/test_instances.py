"""The heartbeat shows which processes run, and forgets those that do not."""

from __future__ import annotations

import math
from datetime import timedelta

from sqlalchemy import update

from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.instances import Instances
from pipeline.ledger.tables import Instance
from tests.pipeline.ledger.samples import NOON

STATS = {"running": True, "messages_processed": 3, "last_error": None}


def instance(number: int, **fields: object) -> Instance:
    values = {"pid": number, "started_at": NOON, "stats": STATS, "sources": {"admin": {"lag": 0}}} | fields
    return Instance(id=f"i{number}", pipeline="p", host="h", **values)


async def all_beat_at(db: Database, ago: timedelta) -> None:
    async with db.write() as connection:
        await connection.execute(update(Instance).values(beat_at=utcnow() - ago))


async def test_a_beat_is_seen_with_its_figures(db: Database) -> None:
    await Instances(db).beat(instance(1))

    (seen,) = await Instances(db).alive()
    assert (seen.id, seen.pid, seen.started_at, seen.stats, seen.sources) == (
        "i1",
        1,
        NOON,
        STATS,
        {"admin": {"lag": 0}},
    )
    assert abs(seen.beat_at - utcnow()) < timedelta(seconds=5)


async def test_an_error_that_quotes_what_no_database_takes_does_not_stop_the_beat(db: Database) -> None:
    await Instances(db).beat(instance(1, stats={"last_error": "no \0 such \ud800"}))

    (seen,) = await Instances(db).alive()
    assert seen.stats == {"last_error": r"no \u0000 such \ud800"}


async def test_a_later_beat_replaces_the_earlier_one(db: Database) -> None:
    instances = Instances(db)
    await instances.beat(instance(1))
    await all_beat_at(db, timedelta(hours=1))
    await instances.beat(instance(1, stats={"messages_processed": 4}))

    (seen,) = await instances.alive()
    assert seen.stats == {"messages_processed": 4}


async def test_one_without_a_beat_is_not_alive_and_is_purged_in_the_end(db: Database) -> None:
    instances = Instances(db)
    await instances.beat(instance(1))
    await all_beat_at(db, timedelta(seconds=30))
    await instances.beat(instance(2))

    assert [seen.id for seen in await instances.alive(within=5)] == ["i2"]
    assert [seen.id for seen in await instances.alive(within=60)] == ["i1", "i2"]
    assert await instances.purge(timedelta(minutes=1)) == 0
    assert await instances.purge(timedelta(seconds=20)) == 1
    assert [seen.id for seen in await instances.alive(within=60)] == ["i2"]


async def test_a_stopped_one_is_removed(db: Database) -> None:
    instances = Instances(db)
    await instances.beat(instance(1))
    await instances.remove("i1")

    assert await instances.alive() == []


async def test_an_open_alert_is_inherited_once_and_only_from_one_that_is_gone(db: Database) -> None:
    instances = Instances(db)
    told = {"alert_1": "2026-01-31T12:00:00Z"}
    await instances.beat(instance(1, stats={"kind": "runner", "alerts": told}))
    assert await instances.inherit("p", "runner", 60.0) == {}
    assert await instances.inherit("p", "worker", 0.0) == {}
    await all_beat_at(db, timedelta(seconds=61))
    assert await instances.inherit("other", "runner", 60.0) == {}
    assert await instances.inherit("p", "runner", 60.0) == told
    assert await instances.inherit("p", "runner", 60.0) == {}


async def test_open_alerts_outlive_a_weekend_and_are_purged_after_a_week(db: Database) -> None:
    instances = Instances(db)
    told = {"alert_1": "2026-01-31T12:00:00Z"}
    await instances.beat(instance(1, stats={"kind": "runner", "alerts": told}))
    await instances.beat(instance(2))
    await all_beat_at(db, timedelta(days=3))
    assert await instances.purge() == 1
    assert await instances.inherit("p", "runner", math.inf) == told

    await instances.beat(instance(1, stats={"kind": "runner", "alerts": told}))
    await all_beat_at(db, timedelta(days=8))
    assert await instances.purge() == 1


async def test_one_that_stopped_leaves_its_open_alerts_to_anyone_and_is_seen_no_more(db: Database) -> None:
    instances = Instances(db)
    await instances.beat(instance(1))
    await instances.leave("i1", "runner", {"alert_1": "2026-01-31T12:00:00Z"})
    assert await instances.alive(3600) == []
    assert await instances.purge() == 0
    assert await instances.inherit("p", "runner", math.inf) == {"alert_1": "2026-01-31T12:00:00Z"}
