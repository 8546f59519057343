"""What audit promises: the reference's row exactly, one row an event, and null with a reason for what is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Delivery, Outcome, Reject
from pipeline_handlers.audit import AuditHandler, pipeline_tables
from tests.handlers.harness import WHEN, deliver, hand, make_event, reference_event, started

REFERENCE = {
    "match": "admin.workflow.*",
    "action": "'workflow_' + data.event_type.split('.')[2]",
    "entity_type": "'bom_processing'",
    "entity_id": "data.bom_id",
    "user_id": "data.admin_id",
    "metadata": {"workflow_id": "data.workflow_id"},
}


async def rows_of(delivery: Delivery, *mappings: dict[str, Any], **options: Any) -> list[Any]:
    async with started(AuditHandler, {"row": list(mappings), **options}) as handler:
        assert await hand(handler, delivery) == [None]
    return [SimpleNamespace(**row.values) for row in delivery.context.rows]


async def row_of(delivery: Delivery, *mappings: dict[str, Any]) -> Any:
    [row] = await rows_of(delivery, *mappings)
    return row


@pytest.mark.parametrize("kind", ["paused", "resumed", "cancelled"])
async def test_the_references_event_leaves_the_references_row(kind: str) -> None:
    row = await row_of(deliver(reference_event(kind)), REFERENCE)
    assert (row.action, row.entity_type, row.entity_id, row.user_id, row.details) == (
        f"workflow_{kind}",
        "bom_processing",
        "bom-uuid-67890",
        "user-uuid-54321",
        {"workflow_id": "bom-enrichment-uuid-12345"},
    )
    assert row.notes is None


async def test_a_row_says_where_its_event_came_from() -> None:
    row = await row_of(deliver(reference_event(id="e-9")), REFERENCE)
    assert (row.event_id, row.routing_key, row.source, row.route) == ("e-9", "admin.workflow.paused", "admin", "route")
    assert row.occurred_at.timestamp() * 1000 == WHEN
    assert row.occurred_at.tzinfo is not None
    assert row.created_at.tzinfo is not None


async def test_as_a_finally_stage_it_records_the_outcome_of_an_event_that_failed() -> None:
    error = Reject("there is no workflow 'x'", kind="workflow_not_found")
    row = await row_of(deliver(reference_event(), Outcome.DEAD, error), REFERENCE)
    assert (row.outcome, row.error) == ("dead", "there is no workflow 'x'")


async def test_as_a_finally_stage_it_records_the_outcome_of_an_event_that_was_handled() -> None:
    row = await row_of(deliver(reference_event(), Outcome.HANDLED), REFERENCE)
    assert (row.outcome, row.error) == ("handled", None)


async def test_as_an_ordinary_stage_it_knows_no_outcome() -> None:
    row = await row_of(deliver(reference_event()), REFERENCE)
    assert (row.outcome, row.error) == (None, None)


async def test_expressions_see_outcome_and_error() -> None:
    mapping = {"action": "outcome + '!'", "metadata": {"why": "error"}}
    row = await row_of(deliver(reference_event(), Outcome.DEAD, Reject("gone")), mapping)
    assert (row.action, row.details) == ("dead!", {"why": "gone"})


async def test_a_missing_field_is_null_and_the_row_says_why() -> None:
    row = await row_of(deliver(reference_event(bom_id=None, workflow_id=None)), REFERENCE)
    assert row.entity_id is None
    assert row.details == {"workflow_id": None}
    assert row.user_id == "user-uuid-54321"
    assert row.notes == ("entity_id: there is no field 'bom_id'; metadata.workflow_id: there is no field 'workflow_id'")


async def test_an_action_that_cannot_be_had_falls_back_to_the_routing_key() -> None:
    row = await row_of(deliver(reference_event(event_type="short")), REFERENCE)
    assert row.action == "admin.workflow.paused"
    assert row.notes.startswith("action: ")
    assert row.entity_id == "bom-uuid-67890"


async def test_numbers_and_booleans_become_text_where_a_column_is_text() -> None:
    row = await row_of(
        deliver(make_event("k", {"n": 42, "yes": True, "list": [1]})),
        {"entity_id": "data.n", "user_id": "data.yes", "entity_type": "data.list", "metadata": {"n": "data.n"}},
    )
    assert (row.entity_id, row.user_id, row.entity_type, row.details) == ("42", "true", None, {"n": 42})
    assert "entity_type" in row.notes


async def test_metadata_keeps_whole_structures() -> None:
    row = await row_of(deliver(make_event("k", {"a": {"b": [1, "x", None]}})), {"metadata": {"all": "data.a"}})
    assert row.details == {"all": {"b": [1, "x", None]}}


async def test_text_that_a_database_refuses_is_written_in_another_way() -> None:
    event = make_event("a.\0", {"d": {"n\0": ["\0"]}, "id": "x\0"}, id="i\0")
    delivery = deliver(event, Outcome.DEAD, Reject("no \0"))
    row = await row_of(delivery, {"entity_id": "data.id", "metadata": {"all": "data.d"}})
    assert (row.entity_id, row.routing_key, row.action, row.error) == (
        r"x\u0000", r"a.\u0000", r"a.\u0000", r"no \u0000",
    )  # fmt: skip
    assert row.details == {"all": {r"n\u0000": [r"\u0000"]}}
    assert row.event_id.startswith(r"i\u0000#")


async def test_the_first_mapping_that_matches_counts() -> None:
    row = await row_of(
        deliver(reference_event()),
        {"match": "other.#", "action": "'other'"},
        {"match": "admin.#", "when": "data.bom_id == 'nope'", "action": "'condition'"},
        {"match": ["x", "admin.*.paused"], "action": "'third'"},
        {"match": "#", "action": "'rest'"},
    )
    assert row.action == "third"


async def test_a_condition_on_a_missing_field_does_not_hold() -> None:
    row = await row_of(deliver(reference_event()), {"when": "data.nope > 1", "action": "'a'"}, {"action": "'b'"})
    assert row.action == "b"


async def test_an_event_without_a_mapping_leaves_a_row_with_its_routing_key() -> None:
    row = await row_of(deliver(make_event("billing.paid", {"x": 1})), REFERENCE)
    assert (row.action, row.entity_type, row.entity_id, row.user_id, row.details, row.notes) == (
        "billing.paid", None, None, None, {}, None,
    )  # fmt: skip


async def test_an_event_without_a_mapping_may_leave_nothing() -> None:
    assert await rows_of(deliver(make_event("billing.paid", {})), REFERENCE, unmatched="skip") == []


async def test_a_batch_leaves_one_row_an_event() -> None:
    batch = [deliver(reference_event(id=str(number))) for number in range(50)]
    async with started(AuditHandler, {"row": [REFERENCE]}) as handler:
        await hand(handler, *batch)
    assert [[row.values["event_id"] for row in one.context.rows] for one in batch] == [[str(n)] for n in range(50)]


async def test_rows_are_logged_where_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pipeline.stage.test")
    await rows_of(deliver(reference_event(), Outcome.HANDLED), REFERENCE)
    assert caplog.messages == []
    await rows_of(deliver(reference_event(), Outcome.HANDLED), REFERENCE, log=True)
    assert caplog.messages == [
        "row ('workflow_paused', 'bom_processing', 'bom-uuid-67890', 'user-uuid-54321', "
        "{'workflow_id': 'bom-enrichment-uuid-12345'}) handled"
    ]


async def test_endlessly_many_routing_keys_do_not_fill_the_memory() -> None:
    async with started(AuditHandler, {"row": [REFERENCE]}) as handler:
        for start in range(0, 12_000, 500):
            await hand(handler, *(deliver(make_event(f"key.{start + n}", {})) for n in range(500)))
        assert len(handler._mappings._by_key) <= 10_000  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mapping", "place"),
    [
        ({"match": "x" * 256}, "row.0.match"),
        ({"match": []}, "row.0.match"),
        ({"action": "'a' +"}, "row.0.action"),
        ({"when": "'text'"}, "row.0.when"),
        ({"metadata": {"a": "nothing"}}, "row.0.metadata.a"),
        ({"entity": "'a'"}, "row.0.entity"),
    ],
)
def test_wrong_options_are_refused_where_they_stand(mapping: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AuditHandler.Options.model_validate({"row": [mapping]})
    assert ".".join(map(str, caught.value.errors()[0]["loc"])).startswith(place)


def test_the_plugin_brings_its_table_and_its_migrations() -> None:
    [branch] = pipeline_tables()
    assert branch.label == "audit"
    assert [table.__tablename__ for table in branch.tables] == ["audit_logs"]
    assert list(branch.versions.glob("*.py"))
