"""What is known of entities, on both databases: newer events add to it, older ones and repeats change nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import select

from pipeline import Event
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import differences, migrate
from pipeline.ledger.rows import RowWriter
from pipeline_handlers.audit import pipeline_tables as audit_tables
from pipeline_handlers.governance import pipeline_tables
from pipeline_handlers.governance.definitions import Definitions
from pipeline_handlers.governance.entities import entity_row, upsert_entity
from pipeline_handlers.governance.events import read_change
from pipeline_handlers.governance.tables import Entity, WorkflowDefinition, WorkflowExecution
from tests.handlers.eventually import eventually
from tests.handlers.governance.kit import an_event, deliver, entity_event, governing, options, rows_of, workflow


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return f"sqlite:///{tmp_path}/entities.db" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await migrate(database, [*audit_tables(), *pipeline_tables()])
    yield database
    await database.close()


def change(kind: str, new: dict[str, Any], at: int, *, entity_id: str = "p-1", id: str = "") -> Event:  # noqa: A002
    return an_event(f"governance.policy.{kind}", {"entity_id": entity_id, "new": new}, id=id or f"e-{at}", at=at)


async def apply(db: Database, *events: Event) -> None:
    upsert = upsert_entity(db.dialect)
    rows = [entity_row(read_change(event), event, datetime.now(UTC), upsert) for event in events]
    async with db.write() as connection:
        await RowWriter(db.dialect).write_rows(connection, rows)


async def known(db: Database) -> list[Entity]:
    return await db.fetch(Entity, select(Entity).order_by(Entity.entity_id))


async def after(db: Database, *events: Event) -> Entity:
    """The entity after these events, in one statement of many rows."""
    await apply(db, *events)
    [entity] = await known(db)
    return entity


async def test_the_migration_makes_what_the_models_say(db: Database) -> None:
    assert await differences(db, pipeline_tables()) == []


async def test_a_change_adds_to_what_is_known(db: Database) -> None:
    found = await after(
        db, change("created", {"status": "draft", "a": 1, "b": 2}, 1), change("updated", {"b": 3, "c": 4}, 2)
    )
    assert (found.version, found.status, found.data) == (2, "draft", {"status": "draft", "a": 1, "b": 3, "c": 4})
    assert (found.event_id, found.changed_at, found.deleted_at) == ("e-2", 2, None)


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 1.0, 1.5, 0.1 + 0.2, 1e-9, 1.7976931348623157e308,
    "", "text", "true", "null", "[1]", '{"a": 1}', 'quo"te\\', "ünï☃",
    [], [1, [2, None], {"a": "b"}], {}, {"deep": {"er": [None, True, 0.5]}}, "line\nbreak\t",
)  # fmt: skip
NAMES = ("a.b", 'quo"te', "it's", "", "ü", "$", "[0]", "back\\slash", "two words")


async def test_a_field_is_replaced_as_a_whole_by_any_value_and_kept_by_none(db: Database) -> None:
    firsts = [{"replaced": {"a": 1, "b": 2}, "kept": value} for value in VALUES]
    await apply(db, *[change("created", data, 1, entity_id=f"{at:02}") for at, data in enumerate(firsts)])
    news = [{"replaced": value, "new": value} for value in VALUES]
    await apply(db, *[change("updated", data, 2, entity_id=f"{at:02}") for at, data in enumerate(news)])
    for value, found in zip(VALUES, await known(db), strict=True):
        assert found.data == {"replaced": value, "kept": value, "new": value}
        assert [type(one) for one in found.data.values()] == [type(value)] * 3


async def test_fields_may_have_any_name(db: Database) -> None:
    for at, name in enumerate(NAMES):
        await apply(db, change("created", {name: 1, "x": 1}, 1, entity_id=f"{at:02}"))
        await apply(db, change("updated", {name: [2], "y": 2}, 2, entity_id=f"{at:02}"))
    for name, found in zip(NAMES, await known(db), strict=True):
        assert found.data == {name: [2], "x": 1, "y": 2}


async def test_an_event_without_fields_keeps_all_of_them(db: Database) -> None:
    found = await after(db, change("created", {"a": 1}, 1), change("updated", {}, 2))
    assert (found.version, found.data) == (2, {"a": 1})


async def test_an_older_event_changes_nothing(db: Database) -> None:
    found = await after(db, change("updated", {"status": "new"}, 5), change("status_changed", {"status": "old"}, 4))
    assert (found.version, found.status, found.event_id) == (1, "new", "e-5")


async def test_events_of_the_same_millisecond_count_in_their_order(db: Database) -> None:
    found = await after(db, change("updated", {"n": 1}, 5, id="a"), change("updated", {"n": 2}, 5, id="b"))
    assert (found.version, found.data) == (2, {"n": 2})


async def test_the_same_event_again_changes_nothing(db: Database) -> None:
    event = change("created", {"n": 1}, 5)
    await apply(db, event)
    found = await after(db, event, event)
    assert found.version == 1


async def test_a_status_that_an_event_does_not_name_is_kept(db: Database) -> None:
    found = await after(
        db,
        change("created", {"status": "draft"}, 1),
        change("status_changed", {"status": "in_review"}, 2),
        change("updated", {"title": "x"}, 3),
    )
    assert found.status == "in_review"


async def status_since(db: Database) -> list[tuple[str, int]]:
    return [(entity.status_event, entity.status_at) for entity in await known(db)]


async def test_the_record_says_which_event_gave_the_entity_its_status_or_deleted_it(db: Database) -> None:
    many = [f"p-{number}" for number in range(8)]
    steps: list[tuple[str, dict[str, Any], int, int]] = [
        ("created", {"status": "draft"}, 1, 1), ("updated", {"title": "x"}, 2, 1),
        ("updated", {"status": "draft"}, 3, 1),
        ("status_changed", {"status": "in_review"}, 4, 4), ("deleted", {}, 5, 5), ("deleted", {}, 6, 5),
        ("created", {"status": "in_review"}, 7, 7),
    ]  # fmt: skip
    for kind, new, at, since in steps:
        await apply(db, *[change(kind, new, at, entity_id=id_) for id_ in many])
        assert await status_since(db) == [(f"e-{since}", since)] * 8


async def test_a_deletion_keeps_what_was_known(db: Database) -> None:
    found = await after(db, change("created", {"status": "draft", "a": 1}, 1), change("deleted", {}, 2))
    assert found.deleted_at is not None
    assert (found.version, found.status, found.data) == (2, "draft", {"status": "draft", "a": 1})


async def test_the_deletion_of_what_was_never_seen_is_remembered(db: Database) -> None:
    found = await after(db, change("deleted", {}, 2), change("created", {"a": 1}, 1))
    assert found.deleted_at is not None
    assert found.data == {}


async def test_an_event_after_the_deletion_brings_the_entity_back_with_what_it_says(db: Database) -> None:
    found = await after(
        db, change("created", {"status": "draft", "a": 1}, 1), change("deleted", {}, 2), change("created", {"b": 2}, 3)
    )
    assert (found.version, found.deleted_at, found.status, found.data) == (3, None, None, {"b": 2})


async def test_entities_do_not_mix(db: Database) -> None:
    await apply(db, *[change("created", {"n": number}, 1, entity_id=f"p-{number}") for number in range(5)])
    await apply(db, change("updated", {"n": "x"}, 2, entity_id="p-3"))
    assert [entity.data["n"] for entity in await known(db)] == [0, 1, 2, "x", 4]


async def test_what_the_handler_leaves_is_what_the_tables_take(db: Database) -> None:
    deliveries = [deliver(entity_event("created", id=f"e-{number}")) for number in range(3)]
    async with governing(workflow(), database=db) as handler:
        await handler.handle_batch(deliveries)
    rows = [row for delivery in deliveries for row in delivery.context.rows]
    for _ in range(2):  # the second time as of events that are handled again
        async with db.write() as connection:
            await RowWriter(db.dialect).write_rows(connection, rows)
    [stored] = await db.fetch(WorkflowDefinition, select(WorkflowDefinition))
    executions = await db.fetch(WorkflowExecution, select(WorkflowExecution))
    assert {execution.id for execution in executions} == {
        rows_of(delivery, WorkflowExecution)[0]["id"] for delivery in deliveries
    }
    restored = Definitions(options()).restore(stored.id, stored.body)
    assert [action.use for action in restored.actions] == ["note"]


async def test_definitions_are_recorded_once_the_database_answers_and_then_no_event_leaves_them(db: Database) -> None:
    async with governing(workflow(), workflow(name="b"), database=db) as handler:
        await eventually(lambda: len(handler._triggers.recorded) == 2)
        delivery = deliver(entity_event("created"))
        await handler.handle_batch([delivery])
    assert rows_of(delivery, WorkflowDefinition) == []
    async with db.read() as connection:
        names = (await connection.execute(text("SELECT name FROM workflow_definitions ORDER BY name"))).scalars().all()
    assert names == ["b", "review"]


async def test_without_a_database_that_answers_each_execution_leaves_its_definition(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/not-migrated.db")
    async with governing(workflow(), database=database) as handler:
        delivery = deliver(entity_event("created"))
        await handler.handle_batch([delivery])
    await database.close()
    assert len(rows_of(delivery, WorkflowDefinition)) == 1


async def test_what_a_workflow_changed_puts_no_field_back_that_changed_meanwhile(db: Database) -> None:
    caused = an_event(
        "governance.policy.status_changed",
        {
            "entity_id": "p-1",
            "old": {"status": "draft", "title": "old"},
            "new": {"status": "published", "title": "old"},
            "causation": [{"workflow": "w", "entity": "policy/p-1", "execution_id": "x"}],
        },
        id="x/1",
        at=3,
    )
    found = await after(
        db, change("created", {"status": "draft", "title": "old"}, 1), change("updated", {"title": "new"}, 2), caused
    )
    assert (found.status, found.data["title"]) == ("published", "new")
