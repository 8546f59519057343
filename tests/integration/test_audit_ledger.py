"""Audit rows in a real database: the reference's row, the migration that makes the table, and what can't be stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pipeline import Delivery, Outcome, Reject
from pipeline.connectors import Message
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import differences, migrate, pending
from pipeline.ledger.units import Commit, Progress, SourceKey, Unit, Unwritable
from pipeline_handlers.audit import AuditHandler, pipeline_tables
from tests.handlers.harness import WHEN, deliver, hand, reference_event, started
from tests.handlers.test_audit import REFERENCE

KEY = SourceKey("admin", "group", "stream.platform.admin")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return f"sqlite:///{tmp_path}/audit.db" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await migrate(database, pipeline_tables())
    yield database
    await database.close()


async def audit(*deliveries: Delivery) -> list[Unit]:
    async with started(AuditHandler, {"row": [REFERENCE]}) as handler:
        await hand(handler, *deliveries)
    return [
        Unit(
            Message(offset, WHEN, b"{}", event.routing_key, event.id),
            event.id,
            event.routing_key,
            context.outcome or Outcome.HANDLED,
            rows=context.rows,
        )
        for offset, (event, context) in enumerate(deliveries)
    ]


async def commit(db: Database, units: Sequence[Unit]) -> list[Unwritable]:
    ledger = Ledger(db)
    lease = await ledger.try_acquire(KEY, "runner")
    assert isinstance(lease, Lease)
    return await ledger.commit(lease, Commit(Progress(len(units) - 1), {Outcome.HANDLED: len(units)}, list(units)))


async def stored(db: Database) -> list[dict[str, Any]]:
    async with db.read() as connection:
        rows = (await connection.execute(text("SELECT * FROM audit_logs ORDER BY id"))).mappings().all()
    return [{**row, "metadata": _parsed(row["metadata"])} for row in rows]


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


async def test_the_references_event_is_stored_as_the_reference_has_it(db: Database) -> None:
    assert await commit(db, await audit(deliver(reference_event(), Outcome.HANDLED))) == []
    [row] = await stored(db)
    assert (row["action"], row["entity_type"], row["entity_id"], row["user_id"], row["metadata"]) == (
        "workflow_paused",
        "bom_processing",
        "bom-uuid-67890",
        "user-uuid-54321",
        {"workflow_id": "bom-enrichment-uuid-12345"},
    )
    assert (row["event_id"], row["routing_key"], row["outcome"]) == ("event-1", "admin.workflow.paused", "handled")


async def test_a_row_comes_back_as_it_was_left(db: Database) -> None:
    from sqlmodel import col, select

    from pipeline_handlers.audit.tables import AuditLog

    [unit] = await audit(deliver(reference_event(), Outcome.DEAD, Reject("no workflow")))
    await commit(db, [unit])
    async with db.read() as connection:
        [found] = (await connection.execute(select(AuditLog).order_by(col(AuditLog.id)))).all()
    assert found.id is not None
    assert found.occurred_at == datetime.fromtimestamp(WHEN / 1000, UTC)
    assert (found.outcome, found.error) == ("dead", "no workflow")


async def test_a_batch_of_events_leaves_one_row_each(db: Database) -> None:
    units = await audit(*(deliver(reference_event(id=f"e{number}"), Outcome.HANDLED) for number in range(1_000)))
    assert await commit(db, units) == []
    assert [row["event_id"] for row in await stored(db)] == [f"e{number}" for number in range(1_000)]


async def test_what_the_database_cannot_store_is_cleaned_and_harms_no_other_row(db: Database) -> None:
    units = await audit(
        deliver(reference_event(id="1"), Outcome.HANDLED),
        deliver(reference_event(id="2", bom_id="nul\0here"), Outcome.HANDLED),
        deliver(reference_event(id="3"), Outcome.HANDLED),
    )
    refused = await commit(db, units)
    kept = {row["event_id"]: row["entity_id"] for row in await stored(db)}
    assert list(kept) == ["1", "2", "3"]
    assert kept["2"] == "nul\\u0000here"
    assert refused == []


async def test_the_migrations_make_the_tables_that_the_code_knows(db: Database) -> None:
    assert await pending(db, pipeline_tables()) == []
    assert await differences(db, pipeline_tables()) == []
