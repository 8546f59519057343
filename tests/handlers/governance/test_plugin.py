"""Governance as an installed plugin: what it registers, and what `pipeline check` says of a file that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.load import load
from pipeline.errors import ConfigError
from pipeline.plugins import load_plugins
from pipeline_handlers.governance.definitions import Definitions
from pipeline_handlers.governance.handler import GovernanceHandler
from tests.handlers.governance.kit import an_event, options, workflow

FILE = """
[source.governance]
stream = "stream.platform.governance"
group = "governance"

[[route]]
match = "governance.#"
stages = ["governance"]

[stage.governance]
include = ["workflows/*.toml"]

[[stage.governance.workflow]]
name = "review"
entity = "policy"
trigger = "on_create"
queue = "urgent"
actions = [
  { use = "approval", approvers = ["ciso"] },
]
"""
INCLUDED = """[[workflow]]
name = "filing"
entity = "${ENTITY}"
trigger = "on_create"
actions = [
  { use = "create_task", title = "File {{ data.entity_id }}" },
]
"""


def write(folder: Path, text: str = FILE, included: str = INCLUDED) -> Path:
    (folder / "workflows").mkdir()
    (folder / "workflows" / "filing.toml").write_text(included)
    file = folder / "pipeline.toml"
    file.write_text(text)
    return file


def test_it_registers_its_handler_its_tables_its_hook_its_actions_and_its_commands() -> None:
    plugins = load_plugins().require_sound()
    [plugin] = [one for one in plugins.loaded if one.name == "governance"]
    assert [handler.name for handler in plugin.handlers] == ["governance"]
    assert [branch.label for branch in plugin.branches] == ["governance"]
    assert [name for name, _ in plugin.commands] == ["executions", "approvals", "tasks", "notifications"]
    actions = plugins.catalog().extensions["governance_actions"]
    assert {"approval", "change_status", "notify", "create_task", "assign"} <= {action.name for action in actions}


def test_a_sound_file_loads_with_its_workflows_and_their_queues(tmp_path: Path) -> None:
    loaded = load(write(tmp_path), {"ENTITY": "evidence"}, load_plugins().catalog())
    assert set(loaded.queues) == {"urgent", "governance:evidence"}


def test_mistakes_within_steps_of_an_approval_are_told_with_the_keys_there(tmp_path: Path) -> None:
    steps = """steps = [
    { approvers = ["ciso"], timeut = "3d" },
    { aprovers = ["cto"] },
  ]"""
    file = write(tmp_path, FILE.replace('approvers = ["ciso"]', steps))
    with pytest.raises(ConfigError) as caught:
        load(file, {"ENTITY": "evidence"}, load_plugins().catalog())
    place = "stage.governance.workflow[0].actions[0].steps"
    assert [str(problem) for problem in caught.value.problems] == [
        f"{file}:20: {place}[0].timeut: steps[0] of action 'approval' has no key 'timeut'; did you mean 'timeout'?",
        f"{file}:21: {place}[1].approvers: the key is missing",
        f"{file}:21: {place}[1].aprovers: steps[1] of action 'approval' has no key 'aprovers'; "
        "did you mean 'approvers'?",
    ]


def test_mistakes_are_told_with_file_line_and_key(tmp_path: Path) -> None:
    text = FILE.replace("approvers", "aprovers").replace('"on_create"', '"on_creation"')
    file = write(tmp_path, text, INCLUDED.replace("title", "titel"))
    with pytest.raises(ConfigError) as caught:
        load(file, {"ENTITY": "evidence"}, load_plugins().catalog())
    told = [str(problem) for problem in caught.value.problems]
    included = tmp_path / "workflows" / "filing.toml"
    assert told == [
        f"{file}:11: stage.governance.include[0]: {included}:6: workflow[0].actions[0].title: the key is missing\n"
        f"  {included}:6: workflow[0].actions[0].titel: action 'create_task' has no option 'titel'; "
        "did you mean 'title'?",
        f"{file}:16: stage.governance.workflow[0].trigger: it must be 'on_create', 'on_update' or 'on_status_change', "
        "not 'on_creation'",
        f"{file}:19: stage.governance.workflow[0].actions[0].aprovers: action 'approval' has no option 'aprovers'; "
        "did you mean 'approvers'?",
    ]


def test_mail_without_a_server_is_a_mistake_before_anything_runs(tmp_path: Path) -> None:
    mail = '{ use = "notify", channel = "email", to = "a@example.org", message = "x" }'
    text = FILE.replace('{ use = "approval", approvers = ["ciso"] }', mail)
    with pytest.raises(ConfigError, match=r"actions\[0\].use: there is no mail server: add \[stage.governance.smtp\]"):
        load(write(tmp_path, text), {"ENTITY": "evidence"}, load_plugins().catalog())


def test_the_example_that_a_runner_prints_triggers_the_first_workflow() -> None:
    given = options(workflow(trigger="on_status_change", to=["review"], when="data.new.risk in ['high', 'low']"))
    example = GovernanceHandler.example(given)
    assert example is not None
    key, data = example
    assert key == "governance.policy.status_changed"
    assert (data["old"], data["new"]) == ({"status": "draft"}, {"status": "review", "risk": "high"})
    found = Definitions(given)
    event = an_event(key, data)
    assert [one.name for one in found.matching(found.change_in(event), event).triggered] == [given.workflows[0].name]
