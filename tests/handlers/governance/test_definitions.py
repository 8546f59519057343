"""What definitions promise: they match what they say, have a version each, and come back as they were stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline import Event, Reject
from pipeline.jobs.contract import INLINE
from pipeline_handlers.governance.contract import Action
from pipeline_handlers.governance.definitions import Definitions
from pipeline_handlers.governance.events import read_change
from pipeline_handlers.governance.options import GovernanceOptions
from tests.handlers.governance.kit import NOTE, NoteAction, context, entity_event, options, status_event, workflow


def triggered(event: Event, *workflows: dict[str, Any]) -> list[str]:
    return [one.name for one in Definitions(options(*workflows)).matching(read_change(event), event).triggered]


def one(**changes: Any) -> Any:
    return Definitions(options(workflow(**changes))).current[0]


ALL = (
    workflow(name="create"),
    workflow(name="update", trigger="on_update"),
    workflow(name="status", trigger="on_status_change"),
)


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (entity_event("created"), ["create"]),
        (entity_event("created", new={"status": "draft"}), ["create"]),
        (entity_event("updated"), ["update"]),
        (status_event("draft", "in_review"), ["status"]),
        (status_event(None, "in_review"), ["status"]),
        (status_event("draft", "draft"), []),
        (status_event("draft", "in_review", change="updated"), ["update", "status"]),
        (status_event("draft", "draft", change="updated"), ["update"]),
        (status_event(None, "draft", change="updated"), ["update"]),
        (entity_event("deleted"), []),
        (entity_event("created", entity="evidence"), []),
    ],
)
def test_each_change_triggers_what_it_is(event: Event, names: list[str]) -> None:
    assert triggered(event, *ALL) == names


def test_an_updated_event_need_not_count_as_a_status_change() -> None:
    change = read_change(status_event("draft", "in_review", change="updated"), updates_change_status=False)
    assert change.triggers == ("on_update",)


@pytest.mark.parametrize(
    ("limits", "matches"),
    [
        ({}, True),
        ({"to": "in_review"}, True),
        ({"to": ["approved", "in_review"]}, True),
        ({"to": "approved"}, False),
        ({"from": "draft"}, True),
        ({"from": ["approved"]}, False),
        ({"from": "draft", "to": "in_review"}, True),
        ({"from": "approved", "to": "in_review"}, False),
    ],
)
def test_from_and_to_limit_a_status_change(limits: dict[str, Any], matches: bool) -> None:
    found = triggered(status_event("draft", "in_review"), workflow(trigger="on_status_change", **limits))
    assert found == (["review"] if matches else [])


def test_an_old_status_that_the_event_does_not_say_is_not_from_anything() -> None:
    assert triggered(status_event(None, "in_review"), workflow(trigger="on_status_change", **{"from": "draft"})) == []


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ("data.new.risk in ['high', 'critical']", True),
        ("data.new.risk == 'low'", False),
        ("data.new.missing == 1", False),
        ("routing_key.startsWith('governance.') && data.actor_id == 'ann'", True),
    ],
)
def test_a_condition_decides_on_the_event(condition: str, matches: bool) -> None:
    found = triggered(entity_event("created", new={"risk": "high"}), workflow(when=condition))
    assert found == (["review"] if matches else [])


def test_all_that_match_are_triggered_in_the_order_of_the_file() -> None:
    names = [f"w{number}" for number in range(5)]
    assert triggered(entity_event("created"), *[workflow(name=name) for name in names]) == names


CAUSE = {"workflow": "review", "entity": "policy/p-1", "execution_id": "x"}


def held_back(*causes: dict[str, str]) -> list[tuple[str, str]]:
    event = entity_event("created", causation=list(causes))
    matches = Definitions(options(workflow(), workflow(name="other"))).matching(read_change(event), event)
    return [(definition.name, reason) for definition, reason in matches.held_back]


def test_a_definition_is_not_triggered_by_what_it_caused_for_that_entity() -> None:
    [(name, reason)] = held_back({**CAUSE, "workflow": "third"}, CAUSE)
    assert name == "review"
    assert reason == "it is among its own causes for policy/p-1"


def test_what_it_caused_for_another_entity_triggers_it() -> None:
    assert held_back({**CAUSE, "entity": "policy/p-2"}, {**CAUSE, "entity": "evidence/p-1"}) == []


def test_a_chain_of_more_than_fifty_causes_triggers_nothing() -> None:
    causes = [{**CAUSE, "workflow": f"w{number}"} for number in range(50)]
    assert held_back(*causes) == []
    found = held_back(*causes, {**CAUSE, "workflow": "w50"})
    assert [name for name, _ in found] == ["review", "other"]
    assert "longer than 50" in found[0][1]


def test_a_condition_that_does_not_hold_is_not_held_back() -> None:
    event = entity_event("created", causation=[CAUSE])
    matches = Definitions(options(workflow(when="data.x == 1"))).matching(read_change(event), event)
    assert (matches.triggered, matches.held_back) == ([], [])


def test_a_definition_has_an_id_of_its_name_and_version() -> None:
    definition = one()
    assert definition.id == f"review@{definition.version}"
    assert len(definition.version) == 12
    assert definition.body == {"name": "review", "entity": "policy", "trigger": "on_create", "actions": [NOTE]}


def test_the_version_is_the_same_in_every_process() -> None:
    assert one().id == "review@c982eb3cc642"


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger": "on_update"},
        {"when": "data.x == 1"},
        {"queue": "other"},
        {"cancel_on": ["revoked"]},
        {"actions": [NOTE, NOTE]},
        {"actions": [{**NOTE, "tone": "warm"}]},
        {"actions": [{**NOTE, "timeout_action": "1m"}]},
    ],
)
def test_whatever_is_written_otherwise_is_another_version(changes: dict[str, Any]) -> None:
    assert one(**changes).version != one().version


def test_writing_a_default_or_another_order_of_keys_is_no_other_version() -> None:
    turned = {key: workflow()[key] for key in ("actions", "trigger", "entity", "name")}
    again = Definitions(options({**turned, "cancel_on": [], "queue": None})).current[0]
    assert again.version == one().version
    listed = one(trigger="on_status_change", to=["a"])
    assert listed.version == one(trigger="on_status_change", to="a").version


def test_an_action_is_built_with_its_options_and_its_time() -> None:
    [note, slow] = one(actions=[NOTE, {**NOTE, "tone": "warm", "timeout_action": "2m"}]).actions
    assert (note.position, note.use, note.timeout, note.action.options.tone) == (0, "note", 7.0, "dry")
    assert (slow.position, slow.timeout, slow.action.options.tone) == (1, 120.0, "warm")
    assert isinstance(slow.action, NoteAction)


def test_a_workflow_without_a_queue_runs_inline() -> None:
    assert (one(use_queue=False).queue, one(use_queue=False).use_queue) == (INLINE, False)
    assert (one().queue, one().use_queue) == ("governance:policy", True)


FULL = workflow(
    trigger="on_status_change",
    to=["in_review"],
    when="data.new.risk == 'high'",
    queue="urgent",
    cancel_on=["revoked", "deleted"],
    actions=[NOTE, {**NOTE, "tone": "warm", "timeout_action": 90, "people": ["a", "b"]}],
    **{"from": "draft"},
)


def test_a_stored_definition_is_restored_as_it_was() -> None:
    stored = Definitions(options(FULL)).current[0]
    body = json.loads(json.dumps(stored.body))
    restored = Definitions(options()).restore(stored.id, body)
    assert (restored.id, restored.version, restored.body) == (stored.id, stored.version, stored.body)
    assert (restored.from_, restored.to, restored.queue, restored.cancel_on) == (
        ("draft",), ("in_review",), "urgent", ("revoked", "deleted"),
    )  # fmt: skip
    assert restored.when == stored.when
    assert [(at.use, at.timeout, at.action.options) for at in restored.actions] == [
        (at.use, at.timeout, at.action.options) for at in stored.actions
    ]


def test_a_current_definition_is_not_made_again() -> None:
    definitions = Definitions(options(FULL))
    [current] = definitions.current
    assert definitions.restore(current.id, {}) is current


def test_a_restored_definition_is_remembered_and_triggers_nothing() -> None:
    definitions = Definitions(options())
    restored = definitions.restore("review@0123456789ab", one().body)
    assert restored.id == "review@0123456789ab"
    assert definitions.restore(restored.id, {}) is restored
    event = entity_event("created")
    assert definitions.matching(read_change(event), event).triggered == []


def test_a_definition_whose_action_is_gone_says_which() -> None:
    body = one(actions=[NOTE, {"use": "idle"}]).body
    empty = GovernanceOptions.model_validate({}, context=context("", NoteAction))
    with pytest.raises(Reject) as caught:
        Definitions(empty).restore("review@0123456789ab", body)
    assert caught.value.kind == "lost_definition"
    assert str(caught.value) == (
        "the definition 'review@0123456789ab' can't be used any more: actions[1].use: there is no action 'idle'; "
        "there are: note"
    )


async def test_all_actions_are_stopped_restored_ones_too() -> None:
    stopped = []

    class Stoppable(Action[Any]):
        name = "stoppable"

        async def stop(self) -> None:
            stopped.append(self)

    table = workflow(actions=[{"use": "stoppable"}, {"use": "stoppable"}])
    found = Definitions(GovernanceOptions.model_validate({"workflow": [table]}, context=context("", Stoppable)))
    found.restore("old@0123456789ab", {**table, "name": "old"})
    await found.stop()
    assert len(stopped) == 4


@pytest.mark.parametrize(
    ("event", "cancelled"),
    [
        (status_event("in_review", "revoked"), True),
        (status_event("in_review", "revoked", change="updated"), True),
        (status_event("revoked", "revoked"), False),
        (status_event("in_review", "approved"), False),
        (entity_event("created", new={"status": "revoked"}), False),
        (entity_event("deleted"), True),
        (entity_event("deleted", entity="evidence"), False),
    ],
)
def test_a_status_of_cancel_on_ends_what_is_under_way(event: Event, cancelled: bool) -> None:
    definitions = Definitions(options(workflow(cancel_on=["revoked", "deleted"]), workflow(name="other")))
    found = [definition.name for definition in definitions.cancelled_by(read_change(event))]
    assert found == (["review"] if cancelled else [])
