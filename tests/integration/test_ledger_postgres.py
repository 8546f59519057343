"""The ledger on a PostgreSQL that hangs, dies, refuses, or is left with a frozen runner's locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from pipeline.errors import Fenced, Unavailable
from pipeline.ledger.database import Database, DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import Commit, Progress
from tests.integration.prepared import prepared
from tests.integration.proxy import Proxy
from tests.pipeline.ledger.samples import KEY, Note, commit_of, count, unit
from tests.services import Postgres, start_postgres


async def acquired(ledger: Ledger, owner: str = "runner-1") -> Lease:
    lease = await ledger.try_acquire(KEY, owner)
    assert isinstance(lease, Lease)
    return lease


async def test_a_server_that_hangs_is_noticed_and_nothing_is_lost_or_doubled(
    proxy: Proxy, behind: Database, db: Database
) -> None:
    ledger = Ledger(behind)
    lease = await acquired(ledger)
    commit = commit_of(unit(0, Note(text="a")))
    proxy.fall_silent()

    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="no answer in time"):
            await ledger.commit(lease, commit)
    proxy.go_on()
    await ledger.commit(lease, commit)

    assert await count(db, Note) == 1


@pytest.mark.parametrize("moment", [b"BEGIN", b"COMMIT"])
async def test_a_connection_cut_around_the_commit_writes_once(
    proxy: Proxy, behind: Database, db: Database, moment: bytes
) -> None:
    ledger = Ledger(behind)
    lease = await acquired(ledger)
    commit = commit_of(unit(0, Note(text="a")), unit(1, Note(text="b")))
    proxy.cut_after = moment

    with pytest.raises(Unavailable):
        await ledger.commit(lease, commit)
    assert proxy.cuts == 1
    assert await count(db, Note) == (2 if moment == b"COMMIT" else 0)
    await ledger.commit(lease, commit)

    assert await count(db, Note) == 2
    assert [(row.handled, row.prefix) for row in await ledger.progress()] == [(2, 1)]


async def test_a_frozen_runners_locks_do_not_stop_the_next_one(
    postgres: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ledger.database._IDLE_LIMIT", "300ms")
    frozen = Database(postgres)
    lease = await acquired(Ledger(frozen))
    ledger = Ledger(db)
    standing = await ledger.try_acquire(KEY, "runner-2")
    assert not isinstance(standing, Lease)

    async def commit_and_freeze() -> None:
        async with frozen.write() as connection:
            await connection.execute(text("UPDATE progress SET beat = beat + 1"))
            taken = await asyncio.wait_for(ledger.try_acquire(KEY, "runner-2", standing), 10)
            assert isinstance(taken, Lease)
            await connection.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await commit_and_freeze()
    with pytest.raises(Fenced):
        await Ledger(frozen).commit(lease, Commit(Progress(1), {}))
    await frozen.close()


async def test_a_server_that_dies_is_waited_for(
    own_server: Callable[[Callable[[Path], Postgres]], Postgres],
) -> None:
    server = own_server(start_postgres)
    db = await prepared(server.env()["TEST_DATABASE_URL"])
    ledger = Ledger(db)
    lease = await acquired(ledger)
    commit = commit_of(unit(0, Note(text="a")))
    server.kill()

    for _ in range(3):
        with pytest.raises(Unavailable):
            await ledger.commit(lease, commit)
    with pytest.raises(Unavailable):
        await db.probe()
    server.start()
    await ledger.commit(lease, commit)

    assert await count(db, Note) == 1
    await db.close()


async def test_a_terminated_session_is_replaced(db: Database) -> None:
    ledger = Ledger(db)
    lease = await acquired(ledger)

    async def kill_all() -> None:
        async with db.write() as connection:
            await connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()")
            )

    with pytest.raises(Unavailable):
        await kill_all()
    await ledger.commit(lease, Commit(Progress(1), {}))


async def test_a_read_only_server_is_waited_for(postgres: str, db: Database) -> None:
    lease = await acquired(Ledger(db))
    name = urlsplit(postgres).path[1:]
    async with db.write() as connection:
        await connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    standby = Database(postgres)

    with pytest.raises(Unavailable, match="read-only"):
        await Ledger(standby).commit(lease, commit_of(unit(0, Note(text="a"))))
    await standby.close()


async def test_a_deadlock_is_nobodys_data(db: Database) -> None:
    """Two writers that wait for each other: one of them is told to try again, and no unit is blamed."""
    async with db.write() as connection:
        await connection.execute(text("INSERT INTO sample_notes (number, state) VALUES (1, ''), (2, '')"))
    first_rows = asyncio.Barrier(2)

    async def write(first: int, second: int) -> None:
        async with db.write() as connection:
            await connection.execute(text(f"UPDATE sample_notes SET state = 'x' WHERE number = {first}"))
            await first_rows.wait()
            await connection.execute(text(f"UPDATE sample_notes SET state = 'y' WHERE number = {second}"))

    ends = await asyncio.gather(write(1, 2), write(2, 1), return_exceptions=True)

    assert [type(end) for end in ends if end is not None] == [Unavailable]


async def test_a_deferred_constraint_blames_its_unit(db: Database) -> None:
    ledger = Ledger(db)
    lease = await acquired(ledger)
    async with db.write() as connection:
        constraint = "ALTER CONSTRAINT sample_notes_owner_name_fkey DEFERRABLE INITIALLY DEFERRED"
        await connection.execute(text(f"ALTER TABLE sample_notes {constraint}"))

    refused = await ledger.commit(lease, commit_of(unit(0, Note(text="a")), unit(1, Note(owner_name="nobody"))))

    assert [item.unit.message.offset for item in refused] == [1]
    assert await count(db, Note) == 1


@pytest.mark.parametrize(
    ("user", "path", "reason"),
    [("nobody", None, 'role "nobody" does not exist'), (None, "/nothing", 'database "nothing" does not exist')],
)
async def test_a_refused_login_is_the_users_to_mend(
    postgres: str, user: str | None, path: str | None, reason: str
) -> None:
    parts = urlsplit(postgres)
    netloc = f"{user}@{parts.hostname}:{parts.port}" if user else parts.netloc
    db = Database(parts._replace(netloc=netloc, path=path or parts.path).geturl())

    with pytest.raises(DatabaseRefused, match=reason):
        await db.probe()


async def test_a_port_where_nobody_listens_is_waited_for() -> None:
    with pytest.raises(Unavailable):
        await Database("postgresql://u@127.0.0.1:1/d").probe()


async def test_a_host_that_is_not_known_is_waited_for() -> None:
    with pytest.raises(Unavailable):
        await Database("postgresql://u@no-such-host.invalid/d").probe()


async def test_libpqs_parameters_are_understood(postgres: str) -> None:
    db = Database(f"{postgres}?sslmode=prefer&application_name=mine")

    async with db.read() as connection:
        assert (await connection.execute(text("SHOW application_name"))).scalar_one() == "mine"
    await db.close()
