"""A commit writes units and progress together, in bulk and in an order that keeps their meaning."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import delete, event, select, update
from sqlmodel import col

from pipeline.events import Outcome
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.tables import DeadLetter, OutcomeRow, ProgressRow
from pipeline.ledger.units import Commit, Progress, Row
from tests.pipeline.ledger.samples import KEY, NOON, Note, Owner, commit_of, count, dead, journal, message, notes, unit


async def progress_of(db: Database) -> ProgressRow:
    (row,) = await db.fetch(ProgressRow, select(ProgressRow))
    return row


async def test_rows_and_progress_are_written_together(ledger: Ledger, lease: Lease, db: Database) -> None:
    refused = await ledger.commit(lease, commit_of(unit(0, Note(text="a")), unit(1, Note(text="b"), Note(text="c"))))

    assert refused == []
    assert [note.text for note in await notes(db)] == ["a", "b", "c"]
    row = await progress_of(db)
    assert (row.prefix, row.chunk_timestamp, row.handled, row.dead) == (1, 1_001, 2, 0)


async def test_ranges_ahead_of_the_prefix_come_back_as_they_were(ledger: Ledger, lease: Lease) -> None:
    progress = Progress(7, 123, ((9, 9), (20, 4_000_000_000)))
    await ledger.commit(lease, Commit(progress, {}))
    await ledger.release(lease)

    taken = await ledger.try_acquire(KEY, "runner-2")

    assert isinstance(taken, Lease)
    assert taken.progress == progress


async def test_a_lease_tells_whether_anything_was_ever_committed(ledger: Ledger, lease: Lease) -> None:
    assert not lease.started
    await ledger.commit(lease, Commit(Progress(), {}))
    await ledger.release(lease)

    taken = await ledger.try_acquire(KEY, "runner-2")

    assert isinstance(taken, Lease)
    assert taken.started
    assert taken.progress == Progress()


async def test_outcomes_add_up_over_commits(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, Commit(Progress(9), {Outcome.HANDLED: 5, Outcome.FILTERED: 4, Outcome.DEAD: 1}))
    await ledger.commit(lease, Commit(Progress(12), {Outcome.HANDLED: 1, Outcome.DUPLICATE: 2}))

    row = await progress_of(db)
    assert (row.handled, row.filtered, row.dead, row.duplicate) == (6, 4, 1, 2)


async def test_a_dead_letter_keeps_the_bytes_exactly_and_cleans_its_texts(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    body = bytes(range(256))
    sent = message(3, body, id="a\0b", headers={"tr\0ace": ["\ud800", 1, None, {"x": 2**70}]}, content_type="te\0xt")
    failed = unit(3, message=sent, event_id=None, outcome=Outcome.DEAD, dead=[dead(reason="bad \0 byte \udfff")])

    await ledger.commit(lease, commit_of(failed))

    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert letter.body == body
    assert letter.reason == r"bad \u0000 byte \udfff"
    assert letter.headers == {r"tr\u0000ace": [r"\ud800", 1, None, {"x": str(2**70)}]}
    assert letter.content_type == r"te\u0000xt"
    assert letter.event_id.startswith(r"a\u0000b#")
    assert (letter.group, letter.stream, letter.offset, letter.message_timestamp) == (KEY.group, KEY.stream, 3, 1_003)
    assert (letter.route, letter.stage, letter.kind, letter.attempts) == ("route-1", "workflow-control", "not_found", 1)
    assert (letter.first_at, letter.state) == (NOON, "open")


async def test_a_message_without_an_id_goes_by_its_place(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, commit_of(unit(4, event_id=None, outcome=Outcome.DEAD, dead=[dead()])))

    (letter,) = await db.fetch(DeadLetter, select(DeadLetter))
    assert letter.event_id == f"{KEY.stream}/0/4"


async def test_each_failed_route_leaves_a_dead_letter(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, commit_of(unit(0, outcome=Outcome.DEAD, dead=[dead("a"), dead("b")])))

    assert [letter.route for letter in await db.fetch(DeadLetter, select(DeadLetter).order_by(DeadLetter.id))] == [
        "a",
        "b",
    ]


async def test_a_message_that_fails_again_replaces_its_dead_letter(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, commit_of(unit(0, outcome=Outcome.DEAD, dead=[dead(reason="first")])))
    await ledger.commit(lease, commit_of(unit(0, outcome=Outcome.DEAD, dead=[dead(reason="second")])))

    assert [letter.reason for letter in await db.fetch(DeadLetter, select(DeadLetter))] == ["second"]


async def test_the_journal_holds_a_row_for_each_route(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, commit_of(unit(0, journal=[journal("a"), journal("b", Outcome.FILTERED)])))

    rows = await db.fetch(OutcomeRow, select(OutcomeRow).order_by(OutcomeRow.id))
    assert [(row.route, row.outcome, row.event_id, row.offset) for row in rows] == [
        ("a", "handled", "e0", 0),
        ("b", "filtered", "e0", 0),
    ]


async def test_rows_of_a_table_that_others_refer_to_are_written_first(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    await ledger.commit(lease, commit_of(unit(0, Note(text="x", owner_name="ann"), Owner(name="ann"))))

    assert [note.owner_name for note in await notes(db)] == ["ann"]


async def test_a_statement_sees_its_own_units_rows(ledger: Ledger, lease: Lease, db: Database) -> None:
    done = update(Note).where(col(Note.text) == "a").values(state="done")

    await ledger.commit(lease, commit_of(unit(0, Note(text="a"), statements=[done])))

    assert [note.state for note in await notes(db)] == ["done"]


async def test_a_statement_does_not_see_a_later_units_rows(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, commit_of(unit(0, Note(text="a"), statements=[delete(Note)]), unit(1, Note(text="b"))))

    assert [note.text for note in await notes(db)] == ["b"]


async def test_statements_on_other_tables_do_not_break_the_bulk_insert(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    inserts: list[str] = []

    def listen(_c: object, _cursor: object, statement: str, _p: object, _context: object, _many: bool) -> None:
        if statement.startswith("INSERT INTO sample_notes"):
            inserts.append(statement)

    engine = db._writer.sync_engine
    event.listen(engine, "before_cursor_execute", listen)
    await ledger.commit(lease, commit_of(*(unit(i, Note(text="a"), statements=[delete(Owner)]) for i in range(10))))
    event.remove(engine, "before_cursor_execute", listen)

    assert len(inserts) == 1
    assert await count(db, Note) == 10


async def test_plain_values_are_written_like_an_instance(ledger: Ledger, lease: Lease, db: Database) -> None:
    rows = [Row(Note, {"text": "a", "payload": {"k": 1}}), Note(text="b"), Row(Note, {"text": "c", "state": "old"})]

    await ledger.commit(lease, commit_of(unit(0, *rows)))

    assert [(n.text, n.state, n.payload) for n in await notes(db)] == [
        ("a", "new", {"k": 1}),
        ("b", "new", None),
        ("c", "old", None),
    ]


async def test_a_commit_of_progress_alone_is_one_statement(ledger: Ledger, lease: Lease, db: Database) -> None:
    statements: list[str] = []

    def listen(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    engine = db._writer.sync_engine
    event.listen(engine, "before_cursor_execute", listen)
    await ledger.commit(lease, Commit(Progress(5), {Outcome.FILTERED: 6}))
    event.remove(engine, "before_cursor_execute", listen)

    assert [statement for statement in statements if statement != "BEGIN"] == ["UPDATE"]


async def test_the_same_commit_is_never_written_twice(ledger: Ledger, lease: Lease, db: Database) -> None:
    commit = commit_of(unit(0, Note(text="a")))

    await ledger.commit(lease, commit)
    await ledger.commit(lease, commit)

    assert await count(db, Note) == 1
    assert (await progress_of(db)).handled == 1


async def test_an_equal_commit_with_a_token_of_its_own_is_written(ledger: Ledger, lease: Lease, db: Database) -> None:
    commit = commit_of(unit(0, Note(text="a")))

    await ledger.commit(lease, commit)
    await ledger.commit(lease, replace(commit, token="another"))

    assert await count(db, Note) == 2
