"""What came of redrives is written once, by the owner of their source, together with all that they leave."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.errors import Fenced, Unavailable
from pipeline.events import Outcome
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database
from pipeline.ledger.dead_letters import Asked, DeadLetters, _past_deadlocks
from pipeline.ledger.fingerprints import pattern
from pipeline.ledger.job_tables import OutboxMessage
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.letters import message_of
from pipeline.ledger.tables import DeadLetter, OperatorAction
from pipeline.ledger.units import Commit, Overtaking, Progress, Redriven, Unit
from tests.pipeline.ledger.samples import KEY, NOON, Note, commit_of, count, dead, message, notes, unit

ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For what is no different on PostgreSQL, where each test makes a database."""


async def bury(ledger: Ledger, lease: Lease, *offsets: int, key: str | None = None, **fields: Any) -> None:
    letters = {offset: dead() for offset in offsets}
    for letter in letters.values():
        letter.key, letter.order_known = key, True
    units = [unit(offset, outcome=Outcome.DEAD, dead=[letters[offset]], **fields) for offset in offsets]
    await ledger.commit(lease, commit_of(*units))


async def ask(db: Database, **options: Any) -> list[DeadLetter]:
    await DeadLetters(db).redrive(by="ann", reason="mended", **options)
    return await Ledger(db).redrives.requested(KEY, (), 10, 1_000)


def result(letter: DeadLetter, outcome: Outcome | None = Outcome.HANDLED, *rows: Any, **fields: Any) -> Redriven:
    left = Unit(message(letter.offset), None, None, Outcome.HANDLED, rows) if rows else None
    return Redriven(
        letter.id or 0, letter.redrives, letter.route, letter.incarnation, outcome, unit=left, **fields
    )  # fmt: skip


async def test_requests_come_in_the_order_of_their_messages_and_each_once(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await bury(ledger, lease, 5, 9)
    await bury(ledger, lease, 7)
    first = await ask(db)
    assert [letter.offset for letter in first] == [5, 7, 9]
    known = [letter.id or 0 for letter in first[:2]]
    assert [letter.offset for letter in await ledger.redrives.requested(KEY, known, 10, 1_000)] == [9]
    assert [letter.offset for letter in await ledger.redrives.requested(KEY, (), 1, 1_000)] == [5]
    assert [letter.offset for letter in await ledger.redrives.requested(KEY, (), 10, 5)] == [5, 7]
    assert [letter.offset for letter in await ledger.redrives.requested(KEY, (), 10, 1)] == [5]
    assert await ledger.redrives.requested(KEY, known, 10, 1) == []


async def test_a_result_is_written_once_with_what_it_leaves(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 5)
    (letter,) = await ask(db)
    done = result(letter, Outcome.HANDLED, Note(text="a"))

    await ledger.redrives.settle(lease, [done])
    await ledger.redrives.settle(lease, [done])  # as after an answer that was lost

    assert [note.text for note in await notes(db)] == ["a"]
    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert (letter.state, letter.outcome, letter.redrives) == ("redriven", "handled", 1)
    assert [act.action for act in await DeadLetters(db).history(letter.id or 0)] == ["redrive", "redriven"]


@ON_SQLITE
async def test_an_old_result_does_not_answer_a_new_request(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 5)
    (letter,) = await ask(db)
    failed = result(letter, Outcome.DEAD, dead=dead())
    await ledger.redrives.settle(lease, [failed])
    await ask(db)

    await ledger.redrives.settle(lease, [failed])

    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert (letter.state, letter.redrives, letter.attempts) == ("redriving", 1, 2)


@ON_SQLITE
async def test_what_a_worker_could_not_do_after_a_redrive_is_open_again(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await bury(ledger, lease, 5)
    (letter,) = await ask(db)
    await ledger.redrives.settle(lease, [result(letter)])

    await bury(ledger, lease, 5)  # as a worker does it, when the job that was left anew fails

    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert (letter.state, letter.outcome, letter.attempts, letter.redrives) == ("open", None, 2, 1)


@ON_SQLITE
async def test_without_the_lease_nothing_is_written(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 5)
    (letter,) = await ask(db)
    await ledger.release(lease)
    await ledger.try_acquire(KEY, "another")

    with pytest.raises(Fenced):
        await ledger.redrives.settle(lease, [result(letter, Outcome.HANDLED, Note(text="a"))])

    assert await count(db, Note) == 0
    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert letter.state == "redriving"


async def test_rows_that_are_refused_make_one_dead_again_and_stop_no_other(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await bury(ledger, lease, 5, 6)
    bad, good = await ask(db)

    await ledger.redrives.settle(
        lease, [result(bad, Outcome.HANDLED, Note(number=2**70)), result(good, Outcome.HANDLED, Note(text="b"))]
    )

    letters = await DeadLetters(db).list()
    assert {(one.offset, one.state, one.kind) for one in letters} == {
        (5, "open", "unwritable"), (6, "redriven", "not_found"),
    }  # fmt: skip
    assert [note.text for note in await notes(db)] == ["b"]


async def test_a_handled_event_marks_the_earlier_dead_letters_of_its_key_and_route(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await bury(ledger, lease, 1, 2, 9, key="w\0" + "x" * 400)
    await bury(ledger, lease, 3, key="other")
    [(route, _), *_] = await ledger.redrives.waiting_keys(KEY, 10)
    later = Overtaking("route-1", "w\0" + "x" * 400, 0, 5, "e5")

    await ledger.commit(lease, Commit(Progress(9), {Outcome.HANDLED: 1}, overtakings=[later]))

    told = {letter.offset: letter.overtaken_by for letter in await DeadLetters(db).list()}
    assert told == {1: "e5", 2: "e5", 9: None, 3: None}
    assert route == "route-1"
    assert len(await ledger.redrives.waiting_keys(KEY, 10)) == 2


async def test_groups_are_by_what_failed_where_whatever_the_names_in_it(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    reasons = ["workflow 'a-1' not found", "workflow 'b' not found", "workflow ab12 is gone", "no \0 at 7f-33"]
    units = [unit(n, outcome=Outcome.DEAD, dead=[dead(reason=reason)]) for n, reason in enumerate(reasons)]
    await ledger.commit(lease, commit_of(*units))
    letters = DeadLetters(db)

    biggest, *others = await letters.groups()

    assert (biggest.count, biggest.reason, biggest.stage) == (2, "workflow … not found", "workflow-control")
    assert (biggest.first_at, biggest.last_at) == (NOON, NOON)
    assert {group.count for group in others} == {1}
    assert [letter.offset for letter in await letters.list(fingerprint=biggest.id)] == [1, 0]
    newest = await letters.get(biggest.example)
    assert newest is not None
    assert newest.offset == 1


def test_a_long_reason_is_grouped_by_its_beginning() -> None:
    assert pattern("x" * 5_000) == "x" * 300
    assert pattern("w" * 600 + "1" + "w" * 500 + " no 'quote") == "… no 'quote"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("'customer_id'", "'customer_id'"),  # a KeyError's
        ("'order-17'", "…"),
        ("workflow 'w-1' not found", "workflow … not found"),
        ("no column 'amount' in 12 rows", "no column … in … rows"),
    ],
)
def test_names_and_numbers_do_not_count_unless_nothing_else_is_there(reason: str, told: str) -> None:
    assert pattern(reason) == told


async def test_what_is_discarded_is_kept_with_who_and_why(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 1, 2)
    letters = DeadLetters(db)
    newest, oldest = await letters.list()

    asked = await letters.discard(by="ann", reason="a test", ids=[newest.id, 999])

    assert (asked.count, asked.refused) == (1, {999: "there is no such dead letter"})
    assert await letters.count(state="open") == 1
    (act,) = await letters.history(newest.id or 0)
    assert (act.actor, act.action, act.reason, act.request) == ("ann", "discard", "a test", asked.request)
    again = await letters.redrive(by="ann", reason="", ids=[newest.id, oldest.id])
    assert (again.count, again.refused) == (1, {newest.id: "it is discarded, and not open"})


@ON_SQLITE
async def test_a_dry_run_says_the_same_and_changes_nothing(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 1)
    old = dead()
    await ledger.commit(lease, commit_of(unit(2, outcome=Outcome.DEAD, dead=[old])))  # nobody knows its order
    letters = DeadLetters(db)
    (unknown, _) = await letters.list()

    dry = await letters.redrive(by="ann", reason="", dry_run=True)

    assert dry.count == 1
    assert list(dry.refused) == [unknown.id]
    assert await letters.count(state="open") == 2
    assert await count(db, OperatorAction) == 0
    real = await letters.redrive(by="ann", reason="")
    assert (real.count, real.refused) == (dry.count, dry.refused)


@ON_SQLITE
async def test_letters_of_a_source_that_is_not_there_are_refused(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 1)

    asked = await DeadLetters(db).redrive(by="ann", reason="", force=True, sources=[("g", "other")])

    assert asked.count == 0
    assert list(asked.refused.values()) == [f"no source reads the stream {KEY.stream!r} as the group {KEY.group!r}"]
    assert (await DeadLetters(db).redrive(by="ann", reason="", sources=[(KEY.group, KEY.stream)])).count == 1


@ON_SQLITE
async def test_times_choose_by_the_last_failure(ledger: Ledger, lease: Lease, db: Database) -> None:
    await bury(ledger, lease, 1)
    letters = DeadLetters(db)
    assert await letters.count(since=NOON) == 1
    assert await letters.count(until=NOON) == 0


async def test_a_message_comes_back_as_it_was(ledger: Ledger, lease: Lease, db: Database) -> None:
    body, headers = bytes(range(256)), {"tr\0ace": ["\ud800", 1, None, {"x": 2**70}]}
    sent = message(3, body, id="a\0b", headers=headers, content_type="te\0xt")
    await ledger.commit(lease, commit_of(unit(3, message=sent, event_id=None, outcome=Outcome.DEAD, dead=[dead()])))
    plain = message(4, b"{}", headers={"a": 1})
    await ledger.commit(lease, commit_of(unit(4, message=plain, event_id=None, outcome=Outcome.DEAD, dead=[dead()])))

    second, first = (message_of(letter) for letter in await DeadLetters(db).list())

    names = ("offset", "timestamp", "body", "routing_key", "headers", "content_type")
    assert [getattr(first, name) for name in names] == [getattr(sent, name) for name in names]
    assert [getattr(second, name) for name in names] == [getattr(plain, name) for name in names]
    assert (first.id, second.id) == ("a\0b", f"{KEY.stream}/0/4")


async def test_each_dead_letter_is_also_left_for_a_stream_with_its_bytes_and_why(lease: Lease, db: Database) -> None:
    ledger = Ledger(db, Copies("p", {KEY.source: "dead"}))
    sent = message(3, b"\xff\0", headers={"a": 1}, content_type="x/y")
    failed = unit(3, message=sent, outcome=Outcome.DEAD, dead=[dead(), dead("route-2")])
    commit = commit_of(failed, unit(4, Note(number=2**70)))

    await ledger.commit(lease, commit)
    await ledger.commit(lease, commit)

    first, second, third = await db.fetch(OutboxMessage, select(OutboxMessage).order_by(OutboxMessage.id))  # type: ignore[arg-type]
    assert (first.stream, first.body, first.content_type) == ("dead", b"\xff\0", "x/y")
    assert first.routing_key == "admin.workflow.paused"
    assert first.headers == {
        "a": 1, "x-dead-letter-reason": "no such workflow", "x-dead-letter-kind": "not_found",
        "x-dead-letter-route": "route-1", "x-dead-letter-stage": "workflow-control", "x-dead-letter-attempts": 1,
        "x-dead-letter-source": KEY.source, "x-dead-letter-group": KEY.group, "x-dead-letter-stream": KEY.stream,
        "x-dead-letter-offset": 3, "x-dead-letter-event-id": "e3", "x-dead-letter-at": NOON.isoformat(),
        "x-dead-letter-where": "",
    }  # fmt: skip
    assert first.message_id != second.message_id
    assert third.headers["x-dead-letter-kind"] == "unwritable"


class Deadlock(Exception):
    """As asyncpg raises it."""

    sqlstate = "40P01"


@pytest.mark.parametrize(("cause", "tries"), [(Deadlock(), 3), (OSError("refused"), 1)])
async def test_a_request_that_ends_in_a_deadlock_is_made_again_and_any_other_outage_is_told(
    cause: Exception, tries: int
) -> None:
    made: list[int] = []

    async def write() -> Asked:
        made.append(len(made))
        if len(made) < 3:
            raise Unavailable("database", "…") from cause
        return Asked("r", 1, {})

    with nullcontext() if tries == 3 else pytest.raises(Unavailable):
        assert (await _past_deadlocks(write)).count == 1
    assert len(made) == tries
