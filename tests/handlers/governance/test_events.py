"""What an event must say to count as a change or a decision, and why it is refused where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Event, Reject
from pipeline_handlers.governance.events import EntityChanged, is_decision, read_change, read_decision
from tests.handlers.governance.kit import an_event, entity_event, status_event


def refusal(event: Event) -> Reject:
    with pytest.raises(Reject) as caught:
        (read_decision if is_decision(event.routing_key) else read_change)(event)
    return caught.value


def test_a_change_says_who_did_what_to_which_entity() -> None:
    change = read_change(status_event("draft", "in_review", causation=[]))
    assert (change.entity_type, change.entity_id, change.kind, change.actor_id) == (
        "policy", "p-1", "status_changed", "ann",
    )  # fmt: skip
    assert (change.old_status, change.new_status, change.entity) == ("draft", "in_review", "policy/p-1")


def test_the_type_comes_from_the_routing_key_where_the_data_has_none() -> None:
    assert read_change(entity_event("created", entity="vendor", entity_type=None)).entity_type == "vendor"


def test_a_routing_key_and_data_about_different_types_are_refused() -> None:
    error = refusal(entity_event("created", entity_type="evidence"))
    assert error.kind == "invalid_data"
    assert str(error) == (
        "the routing key 'governance.policy.created' is about a 'policy', the data's entity_type is 'evidence'"
    )


@pytest.mark.parametrize("given", [17, 17.0])
def test_ids_may_be_numbers(given: Any) -> None:
    change = read_change(entity_event("created", entity_id=given, actor_id=3))
    assert (change.entity_id, change.actor_id) == (str(given), "3")


def test_a_status_may_be_a_number() -> None:
    event = entity_event("status_changed", old={"status": 1}, new={"status": 2})
    assert (read_change(event).old_status, read_change(event).new_status) == ("1", "2")


def test_the_status_may_be_in_another_field() -> None:
    event = entity_event("status_changed", old={"state": "a"}, new={"state": "b"})
    assert read_change(event, "state").new_status == "b"


def test_other_fields_of_the_data_are_left_alone() -> None:
    assert read_change(entity_event("created", timestamp="now", more={"a": 1})).entity_id == "p-1"


def test_a_deletion_needs_no_new_fields() -> None:
    assert read_change(entity_event("deleted", new=None, old=None)).new == {}


@pytest.mark.parametrize(
    ("event", "kind", "said"),
    [
        (entity_event("created", entity_id=None), "invalid_data", "EntityChanged: entity_id: Field required"),
        (entity_event("created", entity_id=""), "invalid_data", "entity_id: String should have at least 1"),
        (entity_event("created", entity_id=True), "invalid_data", "entity_id: "),
        (entity_event("created", entity_id="x" * 501), "invalid_data", "entity_id: String should have at most 500"),
        (entity_event("created", new=None), "invalid_data", "'created' needs 'new', an object"),
        (entity_event("updated", new=None), "invalid_data", "'updated' needs 'new', an object"),
        (entity_event("updated", new=["x"]), "invalid_data", "new: Input should be a valid dictionary"),
        (entity_event("status_changed", new={}), "invalid_data", "needs a text in new.status"),
        (entity_event("status_changed", new={"status": {}}), "invalid_data", "needs a text in new.status"),
        (entity_event("created", causation="x"), "invalid_data", "causation: "),
        (entity_event("created", causation=[{"workflow": "a"}]), "invalid_data", "causation.0.entity: Field required"),
        (an_event("governance.policy", {}), "unknown_change", "is not governance.<entity>.<created|updated|"),
        (an_event("governance..created", {}), "unknown_change", "is not governance.<entity>"),
        (an_event("other.policy.created", {}), "unknown_change", "is not governance.<entity>"),
        (an_event("governance.policy.x.created", {}), "unknown_change", "is not governance.<entity>"),
        (an_event("governance.policy.create", {}), "unknown_change", "did you mean 'created'?"),
        (an_event("governance.approval.grant", {}), "unknown_change", "did you mean 'granted'?"),
        (an_event("governance.approval.x.granted", {}), "unknown_change", "no decision"),
        (an_event("governance.approval.granted", {"approver": "a"}), "invalid_data", "execution_id: Field required"),
        (an_event("governance.approval.granted", {"execution_id": "a"}), "invalid_data", "approver: Field required"),
    ],
)
def test_what_can_not_be_understood_is_refused_with_its_reason(event: Event, kind: str, said: str) -> None:
    error = refusal(event)
    assert error.kind == kind
    assert said in str(error)


def test_a_decision_says_who_decided_on_what() -> None:
    data = {"execution_id": "x-1", "approver": "ciso", "comment": "fine", "approval_id": "x-1/0/0"}
    decision, found = read_decision(an_event("governance.approval.rejected", data))
    assert decision == "rejected"
    assert found.model_dump() == data


def test_a_decision_needs_no_comment_and_names_no_approval() -> None:
    _, found = read_decision(an_event("governance.approval.granted", {"execution_id": "x", "approver": "a"}))
    assert (found.comment, found.approval_id) == (None, None)


def test_what_the_engine_has_validated_is_not_validated_again() -> None:
    event = entity_event("created")
    model = EntityChanged.model_validate({**event.data, "entity_id": "of-the-model"})
    assert read_change(event.with_model(model)).entity_id == "of-the-model"
