"""Dedupe remembers which events a group has finished, for as long as it is told to."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from pipeline.ledger.clean import LONGEST_ID
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.tables import SeenEvent
from tests.pipeline.ledger.samples import KEY, commit_of, count, unit

ODD_IDS = ["", "a\0b", r"a\u0000b", "\ud800", r"\ud800", "é" * 5_000, "é" * 5_001, "x" * LONGEST_ID, "'; --", "1", "01"]


async def test_finished_events_are_seen(ledger: Ledger, lease: Lease) -> None:
    await ledger.commit(lease, commit_of(unit(0), unit(1)))

    assert await ledger.seen(KEY.group, ["e0", "e1", "e2"]) == {"e0", "e1"}


async def test_nothing_is_seen_where_nothing_is_asked(ledger: Ledger) -> None:
    assert await ledger.seen(KEY.group, []) == set()


async def test_another_group_has_not_seen_them(ledger: Ledger, lease: Lease) -> None:
    await ledger.commit(lease, commit_of(unit(0)))

    assert await ledger.seen("group-2", ["e0"]) == set()


async def test_a_unit_without_an_id_is_not_remembered(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, commit_of(unit(0, event_id=None)))

    assert await count(db, SeenEvent) == 0


@pytest.mark.parametrize("event_id", ODD_IDS, ids=ascii)
async def test_any_text_is_an_id_and_only_its_own(ledger: Ledger, lease: Lease, event_id: str) -> None:
    await ledger.commit(lease, commit_of(unit(0, event_id=event_id)))

    assert await ledger.seen(KEY.group, ODD_IDS) == {event_id}


async def test_an_id_that_comes_twice_in_one_commit_is_no_error(ledger: Ledger, lease: Lease) -> None:
    await ledger.commit(lease, commit_of(unit(0, event_id="same"), unit(1, event_id="same")))
    await ledger.commit(lease, commit_of(unit(2, event_id="same")))

    assert await ledger.seen(KEY.group, ["same"]) == {"same"}


async def test_thousands_of_ids_are_asked_for_at_once(ledger: Ledger, lease: Lease) -> None:
    await ledger.commit(lease, commit_of(*(unit(offset) for offset in range(3_000))))

    assert len(await ledger.seen(KEY.group, [f"e{number}" for number in range(40_000)])) == 3_000


async def test_old_ids_are_forgotten_in_small_steps_and_only_the_groups_own(
    ledger: Ledger, lease: Lease, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ledger.seen._DELETED_AT_ONCE", 10)
    await ledger.commit(lease, commit_of(*(unit(offset) for offset in range(30))))
    yesterday = utcnow() - timedelta(days=1)
    async with db.write() as connection:
        old = update(SeenEvent).where(col(SeenEvent.event_id) < "e2").values(seen_at=yesterday)  # e0, e1, e10 to e19
        await connection.execute(old)

    assert await ledger.forget("group-2", utcnow()) == 0
    assert await ledger.forget(KEY.group, utcnow() - timedelta(hours=1)) == 12
    assert await count(db, SeenEvent) == 18
    assert await ledger.seen(KEY.group, ["e1", "e2", "e19"]) == {"e2"}
