"""A unit whose own data the database refuses never stops the others: it alone becomes a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from pipeline.errors import Unavailable
from pipeline.events import Outcome
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.tables import DeadLetter, OutcomeRow, ProgressRow
from pipeline.ledger.units import Row
from tests.pipeline.ledger.samples import (
    Note,
    Owner,
    SampleModel,
    commit_of,
    count,
    dead,
    journal,
    message,
    notes,
    unit,
)

Build = Callable[[], Any]
ON_BOTH: dict[str, Build] = {
    "an integer beyond 64 bits": lambda: Note(number=2**70),
    "a lone surrogate": lambda: Note(text="\ud800"),
    "a value of the wrong type": lambda: Note(text={"not": "text"}),
    "what is no JSON": lambda: Note(payload={"x": object()}),
    "a parent that does not exist": lambda: Note(owner_name="nobody"),
    "an object that is no row": lambda: {"text": "a"},
    "a row that holds related objects": lambda: Note(text="a", owner=Owner(name="ann")),
    "an unknown field": lambda: Row(Note, {"txet": "a"}),
}
ON_POSTGRESQL: dict[str, Build] = {
    "a NUL in a text": lambda: Note(text="a\0b"),
    "a NUL in JSON": lambda: Note(payload={"a": "\0"}),
    "a text that is too long": lambda: Note(tag="abcdef"),
}


async def check_that_only_one_is_refused(ledger: Ledger, lease: Lease, db: Database, row: Any) -> None:
    body = b'{"a": "\\u0000"}\xff'
    units = [unit(offset, Note(text=f"good {offset}"), journal=[journal()]) for offset in range(20)]
    units[13] = unit(13, Note(text="lost"), row, message=message(13, body), journal=[journal()])

    refused = await ledger.commit(lease, commit_of(*units))

    assert [item.unit.message.offset for item in refused] == [13]
    assert refused[0].unit.outcome is Outcome.HANDLED
    assert [note.text for note in await notes(db)] == [f"good {offset}" for offset in range(20) if offset != 13]
    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert (letter.offset, letter.kind, letter.body, letter.event_id) == (13, "unwritable", body, "e13")
    assert letter.reason == refused[0].dead.reason
    (progress,) = await db.fetch(ProgressRow, select(ProgressRow))
    assert (progress.prefix, progress.handled, progress.dead) == (19, 19, 1)
    outcomes = await db.fetch(OutcomeRow, select(OutcomeRow).order_by(OutcomeRow.offset))
    assert [row.offset for row in outcomes if row.outcome == "dead"] == [13]
    assert len(outcomes) == 20
    assert await ledger.seen(lease.key.group, ["e12", "e13"]) == {"e12", "e13"}


@pytest.mark.parametrize("case", ON_BOTH)
async def test_only_the_offender_is_dead(ledger: Ledger, lease: Lease, db: Database, case: str) -> None:
    await check_that_only_one_is_refused(ledger, lease, db, ON_BOTH[case]())


@pytest.mark.parametrize("case", ON_POSTGRESQL)
async def test_what_only_postgresql_refuses_is_dead_there(
    ledger: Ledger, lease: Lease, db: Database, case: str
) -> None:
    row = ON_POSTGRESQL[case]()
    if db.dialect == "sqlite":
        assert await ledger.commit(lease, commit_of(unit(0, row))) == []
    else:
        await check_that_only_one_is_refused(ledger, lease, db, row)


async def test_a_statement_of_more_values_than_the_driver_takes_is_dead_too(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    many = 300_000 if db.dialect == "sqlite" else 33_000
    bad = unit(1, statements=[update(Note).where(Note.number.in_(range(many))).values(tag="x")])  # type: ignore[union-attr]

    refused = await ledger.commit(lease, commit_of(unit(0, Note(text="a")), bad, unit(2, Note(text="b"))))

    assert [item.unit.message.offset for item in refused] == [1]
    assert [note.text for note in await notes(db)] == ["a", "b"]


async def test_a_statement_with_bad_data_is_dead_too(ledger: Ledger, lease: Lease, db: Database) -> None:
    bad = unit(1, statements=[insert(Note).values(number=2**70)])

    refused = await ledger.commit(lease, commit_of(unit(0, Note(text="a")), bad, unit(2, Note(text="b"))))

    assert [item.unit.message.offset for item in refused] == [1]
    assert [note.text for note in await notes(db)] == ["a", "b"]


async def test_of_two_rows_with_one_unique_value_the_later_is_dead(ledger: Ledger, lease: Lease, db: Database) -> None:
    refused = await ledger.commit(lease, commit_of(*(unit(i, Note(name="same")) for i in range(3))))

    assert [item.unit.message.offset for item in refused] == [1, 2]
    assert await count(db, Note) == 1


async def test_a_whole_batch_of_bad_units_is_dead(ledger: Ledger, lease: Lease, db: Database) -> None:
    refused = await ledger.commit(lease, commit_of(*(unit(i, Note(number=2**70)) for i in range(50))))

    assert len(refused) == 50
    assert await count(db, DeadLetter) == 50
    (progress,) = await db.fetch(ProgressRow, select(ProgressRow))
    assert (progress.handled, progress.dead) == (0, 50)


async def test_a_unit_that_was_dead_already_counts_once_and_keeps_its_dead_letter(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    bad = unit(0, Note(number=2**70), outcome=Outcome.DEAD, dead=[dead("route-1")])

    await ledger.commit(lease, commit_of(bad))

    letters = await db.fetch(DeadLetter, select(DeadLetter).order_by(DeadLetter.id))
    assert [(letter.route, letter.kind) for letter in letters] == [("route-1", "not_found"), ("", "unwritable")]
    (progress,) = await db.fetch(ProgressRow, select(ProgressRow))
    assert progress.dead == 1


async def test_a_missing_table_waits_for_the_migration(ledger: Ledger, lease: Lease, db: Database) -> None:
    async with db.write() as connection:
        await connection.run_sync(SampleModel.metadata.drop_all)
    commit = commit_of(unit(0, Note(text="a")))
    with pytest.raises(Unavailable, match="pipeline migrate"):
        await ledger.commit(lease, commit)
    assert await count(db, DeadLetter) == 0

    async with db.write() as connection:
        await connection.run_sync(SampleModel.metadata.create_all)
    await ledger.commit(lease, commit)

    assert await count(db, Note) == 1
