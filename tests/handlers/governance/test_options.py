"""What a stage's table may say, and that whatever is wrong in it is reported at its very key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.positions import scan
from pipeline.config.problems import Problems
from pipeline.errors import PluginError
from pipeline.jobs.contract import INLINE
from pipeline_handlers.governance.contract import Action
from pipeline_handlers.governance.options import GovernanceOptions
from tests.handlers.governance.kit import NOTE, IdleAction, NoteAction, context, options, workflow


def problems_of(table: Mapping[str, Any], base: Path | str = "", **more: Any) -> list[str]:
    """What `pipeline check` would say of a stage's table."""
    with pytest.raises(ValidationError) as caught:
        GovernanceOptions.model_validate(dict(table), context=context(base, **more))
    problems = Problems("", scan(""), table)
    problems.validation(caught.value, GovernanceOptions, table, ())
    return [str(problem) for problem in problems.errors]


def problem_of(*workflows: dict[str, Any]) -> str:
    [problem] = problems_of({"workflow": list(workflows)})
    return problem


def test_an_unknown_action_is_answered_with_the_nearest_name() -> None:
    found = problem_of(workflow(), workflow(name="b", actions=[NOTE, {"use": "notte"}]))
    assert found == "workflow[1].actions[1].use: there is no action 'notte'; did you mean 'note'?"


def test_an_unknown_action_with_no_near_name_is_answered_with_all() -> None:
    found = problem_of(workflow(actions=[{"use": "zzz"}]))
    assert found == "workflow[0].actions[0].use: there is no action 'zzz'; there are: idle, note"


def test_an_unknown_option_of_an_action_is_answered_with_its_own_options() -> None:
    found = problem_of(workflow(actions=[NOTE, {**NOTE, "tome": "warm"}]))
    assert found == "workflow[0].actions[1].tome: action 'note' has no option 'tome'; did you mean 'tone'?"


def test_an_action_without_options_takes_none() -> None:
    found = problem_of(workflow(actions=[{"use": "idle", "x": 1}]))
    assert found.startswith("workflow[0].actions[0].x: action 'idle' has no option 'x'")


def test_a_missing_option_of_an_action_is_reported_at_its_key() -> None:
    found = problem_of(workflow(actions=[{"use": "note"}]))
    assert found == "workflow[0].actions[0].text: the key is missing"


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({**NOTE, "text": 3}, "text: it must be a text in quotes, not 3"),
        ({**NOTE, "text": ""}, "text: it must not be empty"),
        ({**NOTE, "tone": "hot"}, "tone: it must be 'dry' or 'warm', not 'hot'"),
        ({**NOTE, "people": ["a", 1]}, "people[1]: it must be a text in quotes, not 1"),
        ({**NOTE, "timeout_action": "soon"}, "timeout_action: 'soon' is not a duration"),
        ({**NOTE, "timeout_action": 0}, "timeout_action: it must be greater than 0, not 0"),
        ({"text": "x"}, "use: the key is missing: the action's name"),
    ],
)
def test_a_wrong_option_of_an_action_is_reported_at_its_key(action: dict[str, Any], said: str) -> None:
    assert problem_of(workflow(actions=[NOTE, action])).startswith(f"workflow[0].actions[1].{said}")


def test_everything_wrong_is_reported_at_once() -> None:
    found = problems_of({"workflow": [workflow(entity="a.b", actions=[{"use": "note"}, {"use": "nope"}])], "x": 1})
    assert [line.split(":")[0] for line in found] == [
        "workflow[0].entity", "workflow[0].actions[0].text", "workflow[0].actions[1].use", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("data.new.risk in ['high'", "the expression ends too early"),
        ("1 + 'a' == 2", "'+' does not take (int, string)"),
        ("'high'", "it gives string, and true or false is wanted"),
        ("dta.new.risk == 'x'", "unknown name 'dta.new.risk': did you mean 'data'?"),
        ("outcome == 'dead'", "'outcome' is known in 'finally' stages only"),
        ("", "the expression is empty"),
    ],
)
def test_a_wrong_condition_says_what_the_checker_says(condition: str, said: str) -> None:
    found = problem_of(workflow(when=condition))
    assert found.startswith("workflow[0].when: ")
    assert said in found


@pytest.mark.parametrize("key", ["from", "to"])
@pytest.mark.parametrize("trigger", ["on_create", "on_update"])
def test_statuses_need_the_trigger_that_knows_them(key: str, trigger: str) -> None:
    found = problem_of(workflow(**{key: "draft", "trigger": trigger}))
    assert found == f"workflow[0].{key}: '{key}' needs trigger = 'on_status_change', not '{trigger}'"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trigger": "on_delete"}, "trigger: it must be 'on_create', 'on_update' or 'on_status_change'"),
        ({"entity": "approval"}, "entity: no entity can be named 'approval'"),
        ({"entity": "a b"}, "entity: 'a b' is no word of a routing key"),
        ({"entity": "*"}, "entity: '*' is no word of a routing key"),
        ({"name": None}, "name: the key is missing"),
        ({"actions": []}, "actions: it must not be empty"),
        ({"actions": None}, "actions: the key is missing"),
        ({"queue": ""}, "queue: it must not be empty"),
        ({"frm": "x"}, "frm: unknown key 'frm'; did you mean 'from'?"),
        ({"actions": ["note"]}, "actions[0]: it must be a table"),
    ],
)
def test_a_wrong_key_of_a_workflow_is_reported_at_its_place(changes: dict[str, Any], said: str) -> None:
    assert problem_of(workflow(**changes)).startswith(f"workflow[0].{said}")


def test_a_placeholder_that_a_queue_does_not_know_is_refused() -> None:
    told = "there is no placeholder '{entty}'; a queue's name may have '{entity}'"
    assert problem_of(workflow(queue="g:{entty}")) == f"workflow[0].queue: {told}"
    with pytest.raises(ValidationError, match=r"no placeholder '\{entty\}'"):
        options(workflow(), queue="g:{entty}")


def test_two_workflows_of_one_name_are_refused() -> None:
    found = problem_of(workflow(), workflow(name="other"), workflow(entity="evidence"))
    assert found == (
        "workflow[2].name: there are two workflows named 'review' (the first: workflow[0]): rename one of them"
    )


def test_statuses_may_be_one_text_or_a_list() -> None:
    found = options(workflow(trigger="on_status_change", **{"from": "draft"}, to=["in_review", "approved"])).workflow[0]
    assert (found.from_, found.to) == (("draft",), ("in_review", "approved"))


def test_what_is_left_out_has_its_default() -> None:
    found = options()
    assert (found.use_queue, found.status_field, found.smtp, found.workflows) == (True, "status", None, ())
    assert found.known_entities == {"policy", "assessment", "evidence"}


def test_entities_become_known_by_a_workflow_or_by_name() -> None:
    found = options(workflow(entity="vendor"), entities=["control", "*"])
    assert found.known_entities == {"policy", "assessment", "evidence", "vendor", "control", "*"}


def test_a_workflow_goes_to_the_queue_of_its_entity_unless_one_is_named() -> None:
    found = options(
        workflow(),
        workflow(name="b", queue="urgent"),
        workflow(name="c", entity="evidence"),
        workflow(name="d", use_queue=False),
    )
    assert found.queues == ("governance:policy", "urgent", "governance:evidence", INLINE)


def test_a_stage_may_name_the_queue_for_all_or_use_none() -> None:
    assert options(workflow(), queue="all").queues == ("all",)
    assert options(workflow(), queue="g-{entity}").queues == ("g-policy",)
    assert options(workflow(), workflow(name="b", use_queue=True), use_queue=False).queues == (
        INLINE,
        "governance:policy",
    )


def test_two_actions_of_one_name_are_a_fault_of_the_plugins() -> None:
    class Other(Action[Any]):
        name = "note"

    with pytest.raises(PluginError, match="two actions are named 'note'"):
        GovernanceOptions.model_validate({"workflow": [workflow()]}, context=context("", NoteAction, Other))


@pytest.mark.parametrize("item", [object, "note", Action])
def test_what_is_no_action_is_a_fault_of_the_plugin(item: Any) -> None:
    with pytest.raises(PluginError, match=r"governance_actions\(\) returned .*: return subclasses of Action"):
        GovernanceOptions.model_validate({"workflow": [workflow()]}, context=context("", IdleAction, item))


def test_an_action_may_say_that_the_stages_options_do_not_suffice_for_it() -> None:
    class Mail(Action[Any]):
        name = "mail"

        def problem(self, settings: GovernanceOptions) -> str:
            return "" if settings.smtp else "there is no mail server"

    table = {"workflow": [workflow(actions=[NOTE, {"use": "mail"}])]}
    with pytest.raises(ValidationError) as caught:
        GovernanceOptions.model_validate(table, context=context("", NoteAction, Mail))
    [error] = caught.value.errors()
    assert error["loc"] == ("workflow", 0, "actions", 1, "use")
    assert error["msg"] == "there is no mail server"
    server = {"host": "mail.example.org", "from": "pipeline@example.org"}
    GovernanceOptions.model_validate({**table, "smtp": server}, context=context("", NoteAction, Mail))


def test_without_any_action_each_use_says_so() -> None:
    with pytest.raises(ValidationError, match="there is no action 'note'"):
        GovernanceOptions.model_validate({"workflow": [workflow()]})


def test_a_message_with_braces_is_told_as_it_is() -> None:
    assert "'{said}'" in problem_of(workflow(actions=[{"use": "{said}"}]))


def test_the_options_have_a_json_schema() -> None:
    schema = GovernanceOptions.model_json_schema()
    assert schema["properties"]["workflow"]["type"] == "array"
