"""Failures are grouped by their place in the code; those from before that was known keep their groups."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from pipeline.events import Outcome
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.fingerprints import in_common
from pipeline.ledger.job_tables import OutboxMessage
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import differences, migrate
from pipeline.ledger.units import Dead, Redriven
from pipeline.where import Where
from tests.pipeline.ledger.samples import KEY, NOON, Note, commit_of, dead, unit

CHECKED = Where("orders.py:check_customer", "Traceback …\nValueError: no such customer")


def failed(reason: str, where: Where | None = CHECKED, kind: str = "ValueError") -> Dead:
    return Dead("route-1", "orders", kind, reason, 1, NOON, NOON, order_known=True, where=where)


async def bury(ledger: Ledger, lease: Lease, *letters: Dead, first: int = 0) -> None:
    units = [unit(first + n, outcome=Outcome.DEAD, dead=[letter]) for n, letter in enumerate(letters)]
    await ledger.commit(lease, commit_of(*units))


async def test_what_fails_at_one_place_in_the_code_is_one_group_whatever_it_says(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    names = ("acme", "bolt", "corp \0")
    other = Where("orders.py:check_stock", "Traceback …")
    await bury(
        ledger, lease, *(failed(f"no such customer {name}") for name in names),
        failed("no such customer acme", other), failed("no such customer acme", None), failed("x", kind="KeyError"),
    )  # fmt: skip
    letters = DeadLetters(db)

    biggest, *others = await letters.groups()

    assert (biggest.count, biggest.place, biggest.reason) == (3, CHECKED.place, "no such customer …")
    assert sorted((group.count, str(group.place)) for group in others) == [
        (1, "None"), (1, "orders.py:check_customer"), (1, "orders.py:check_stock"),
    ]  # fmt: skip
    assert (await letters.redrive(by="ann", reason="mended", fingerprint=biggest.id)).count == 3


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["no order 17", "no order 18", "no order 4"], "no order …"),
        (["no order 17 in a", "no order 18 in b"], "no order … in …"),
        (["no order 17", "no order 18 for acme"], "no order …"),
        (["gone", "away"], "gone"),
        (["17 gone", "18 away"], "… gone"),
        (["", "away"], ""),
        (["two\nlines", "two\nlines"], "two\nlines"),
    ],
)
def test_of_reasons_the_words_that_they_share_are_told(reasons: list[str], told: str) -> None:
    assert in_common(*reasons) == told


async def test_what_is_raised_on_purpose_is_grouped_by_its_reason_and_keeps_its_place(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    places = [Where("orders.py:a"), Where("orders.py:b\0\ud800"), Where("orders.py:a")]
    reasons = ["no order 'x'", "no order 'y'", "too late"]
    await bury(ledger, lease, *(failed(reason, where) for reason, where in zip(reasons, places, strict=True)))

    found = await DeadLetters(db).list()

    late, second, first = (letter.fingerprint for letter in found)
    assert first == second != late
    assert [(letter.place, letter.traceback) for letter in reversed(found)] == [
        ("orders.py:a", None), (r"orders.py:b\u0000\ud800", None), ("orders.py:a", None),
    ]  # fmt: skip


async def test_a_copy_on_a_stream_says_where_or_that_nobody_knows(lease: Lease, db: Database) -> None:
    await bury(Ledger(db, Copies("p", {KEY.source: "dead"})), lease, failed("no"), failed("no", None))

    copies = await db.fetch(OutboxMessage, select(OutboxMessage).order_by(OutboxMessage.id))  # type: ignore[arg-type]
    assert [copy.headers["x-dead-letter-where"] for copy in copies] == [CHECKED.place, ""]


async def test_dead_letters_from_before_keep_their_groups_until_they_fail_again(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await bury(ledger, lease, failed("no such customer w-1", None), failed("no such customer w-2", None), dead())
    async with db.write() as connection:
        for column in ("place", "traceback"):
            await connection.execute(text(f"ALTER TABLE dead_letters DROP COLUMN {column}"))
        await connection.execute(text("UPDATE schema_core SET version_num = '0004'"))

    assert await migrate(db) == ["core 0005"]

    assert await differences(db) == []
    letters = DeadLetters(db)
    old, *_ = await letters.groups()
    assert (old.count, old.reason, old.place) == (2, "no such customer …", None)
    assert (await letters.redrive(by="ann", reason="mended", fingerprint=old.id)).count == 2
    first, second = await ledger.redrives.requested(KEY, (), 10, 1_000)
    await ledger.redrives.settle(
        lease,
        [
            Redriven(first.id or 0, 0, first.route, 0, Outcome.DEAD, dead=failed("no such customer w-1")),
            Redriven(second.id or 0, 0, second.route, 0, Outcome.HANDLED),
        ],
    )
    again = await letters.get(first.id or 0)
    assert again is not None
    assert (again.state, again.place, again.traceback) == ("open", CHECKED.place, CHECKED.traceback)
    assert again.fingerprint != old.id
    assert (await letters.count(fingerprint=old.id, state="redriven")) == 1


async def test_rows_that_are_refused_have_no_place_also_where_the_event_had_failed_before(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await bury(ledger, lease, failed("no"))
    await DeadLetters(db).redrive(by="ann", reason="mended")
    (letter,) = await ledger.redrives.requested(KEY, (), 10, 1_000)
    left = unit(0, Note(number=2**70))

    await ledger.redrives.settle(lease, [Redriven(letter.id or 0, 0, letter.route, 0, Outcome.HANDLED, unit=left)])

    (letter,) = await DeadLetters(db).list()
    assert (letter.kind, letter.place, letter.traceback) == ("unwritable", None, None)
