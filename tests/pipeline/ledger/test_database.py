"""A database's troubles are told apart: what to wait for, and what the user must mend."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from pipeline.errors import Unavailable
from pipeline.ledger.database import Database, DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate
from tests.pipeline.ledger.samples import Note, SampleModel, commit_of, count, unit

# --- URLs


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "sqlite:///x.db?mode=ro", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "sqlite://host/db"],
)
def test_a_wrong_url_says_what_to_write(url: str) -> None:
    with pytest.raises(DatabaseRefused, match="sqlite:///path"):
        Database(url)


def test_a_url_is_shown_without_its_password() -> None:
    db = Database("postgresql://ann:secret@host:5432/d?sslmode=require")

    assert "secret" not in db.location
    assert "ann" in db.location


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_postgresql_has_several_schemes(scheme: str) -> None:
    assert Database(f"{scheme}://h/d").dialect == "postgresql"


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(DatabaseRefused, match=r"pip install 'pipeline-runner\[postgres\]'"):
        Database("postgresql://h/d")


# --- transactions, on both databases


async def test_an_error_rolls_back(db: Database) -> None:
    async def fail() -> None:
        async with db.write() as connection:
            await connection.execute(insert(Note).values(text="a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await count(db, Note) == 0


async def test_a_cancelled_writer_leaves_the_next_one_a_working_database(db: Database) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with db.write() as connection:
            await connection.execute(insert(Note).values(text="a"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with db.write() as connection:
        await connection.execute(insert(Note).values(text="b"))
    assert await count(db, Note) == 1


async def test_a_writer_cancelled_at_any_moment_leaves_a_working_database(
    ledger: Ledger, lease: Lease, db: Database
) -> None:
    for moment in range(60):  # a commit takes some 3 ms; the moments of its first 12 ms are tried
        commit = commit_of(*(unit(100 * moment + n, Note(text=f"{moment}")) for n in range(20)))
        task = asyncio.create_task(ledger.commit(lease, commit))
        await asyncio.sleep(moment / 5_000)
        task.cancel()
        await asyncio.wait([task])
        await ledger.commit(lease, commit)

    assert await count(db, Note) == 60 * 20


async def test_many_writers_and_readers_of_one_process_take_turns(db: Database) -> None:
    async def write(number: int) -> None:
        async with db.write() as connection:
            before = (await connection.execute(text("SELECT count(*) FROM sample_notes WHERE number = 1"))).scalar_one()
            await connection.execute(insert(Note).values(text=str(number), number=before * 0))

    await asyncio.gather(*(write(number) for number in range(30)), *(count(db, Note) for _ in range(30)))

    assert await count(db, Note) == 30


async def test_it_can_be_used_again_after_it_was_closed(db: Database) -> None:
    await db.close()

    await db.probe()


# --- SQLite alone


@pytest.fixture
async def file(tmp_path: Path) -> Any:
    """A migrated SQLite file in a folder that was not there."""
    db = Database(f"sqlite:///{tmp_path}/new folder/100% #é.db")
    await migrate(db)
    async with db.write() as connection:
        await connection.run_sync(SampleModel.metadata.create_all)
    yield db
    await db.close()


async def sqlite_ledger(db: Database) -> tuple[Ledger, Lease]:
    from tests.pipeline.ledger.samples import KEY

    ledger = Ledger(db)
    lease = await ledger.try_acquire(KEY, "runner-1")
    assert isinstance(lease, Lease)
    return ledger, lease


async def test_a_path_may_hold_any_character(file: Database, tmp_path: Path) -> None:
    assert (tmp_path / "new folder" / "100% #é.db").is_file()


async def test_reading_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no file"):
        await Database(f"sqlite:///{tmp_path}/x.db").probe()

    assert list(tmp_path.iterdir()) == []


async def test_settings_are_those_that_durability_needs(file: Database) -> None:
    async with file.write() as connection:
        found = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 5000]


async def test_a_reader_can_not_write(file: Database) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        async with file.read() as connection:
            await connection.execute(insert(Note).values(text="a"))


async def test_a_reader_does_not_wait_for_the_writer(file: Database) -> None:
    async with file.write() as connection:
        await connection.execute(insert(Note).values(text="a"))
        assert await asyncio.wait_for(count(file, Note), 2) == 0


async def test_two_processes_that_read_and_then_write_lose_no_update(file: Database) -> None:
    """Two engines stand for two processes: they share nothing but the file."""
    other = Database(file.url)
    async with file.write() as connection:
        await connection.execute(insert(Note).values(number=0))

    async def add(db: Database) -> None:
        for _ in range(25):
            async with db.write() as connection:
                number = (await connection.execute(select(Note.number))).scalar_one()
                await connection.execute(update(Note).values(number=number + 1))

    await asyncio.gather(add(file), add(other))
    await other.close()

    assert (await file.fetch(Note, select(Note)))[0].number == 50


async def test_a_database_that_another_process_locks_is_unavailable(
    file: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ledger.database._LOCK_WAIT", 0.05)
    impatient = Database(file.url)
    other = sqlite3.connect(tmp_path / "new folder" / "100% #é.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable, match="locked"):
        async with impatient.write():
            pass
    other.execute("ROLLBACK")
    other.close()

    async with impatient.write():
        pass
    await impatient.close()


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(file: Database) -> None:
    ledger, lease = await sqlite_ledger(file)
    commit = commit_of(unit(0, Note(text="x" * 1_000_000)))
    async with file.write() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(Unavailable, match="full"):
        await ledger.commit(lease, commit)
    async with file.write() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    await ledger.commit(lease, commit)

    assert await count(file, Note) == 1


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, and long enough to be looked at" * 100, encoding="utf-8")
    db = Database(f"sqlite:///{tmp_path}/x.db")

    with pytest.raises(DatabaseRefused, match="not a database"):
        async with db.write():
            pass
    await db.close()


async def test_a_folder_in_the_files_place_is_unavailable(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}")

    with pytest.raises(Unavailable, match="unable to open"):
        async with db.write():
            pass


async def test_a_folder_that_can_not_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(Unavailable):
        async with Database(f"sqlite:///{tmp_path}/file/x.db").write():
            pass


async def test_a_write_within_a_write_is_refused_on_sqlite_with_advice(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/x.db")
    async with asyncio.timeout(5):
        async with db.write():
            with pytest.raises(RuntimeError, match="use the transaction's own connection"):
                async with db.write():
                    pass
        async with db.write() as connection:  # and it goes on afterwards
            await connection.execute(text("SELECT 1"))
    await db.close()
