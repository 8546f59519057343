"""A stranger's workflow actions, in a package of their own: installed, named in the TOML, done."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.shell import Running, Shell, until
from tests.third_party.installing import PIPELINE, installed

pytestmark = pytest.mark.slow  # each starts processes

PACKAGE = Path(__file__).parent / "acme_tickets"
FILE = """
[pipeline]
name = "acme"

[source.governance]
stream = "governance"
group = "acme"

[[route]]
match = "governance.#"
key = "data.entity_id"
stages = ["governance"]

[[stage.governance.workflow]]
name = "tickets"
entity = "machine"
trigger = "on_create"
actions = [
  { use = "acme-call", line = "line.txt" },
  { use = "acme-ticket", project = "ACME", title = "Look at {{ entity.id }}" },
  { use = "notify", to = "ann", message = "a ticket is open" },
]
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new virtual environment, in which this project and the stranger's package are installed."""
    return installed(PACKAGE, tmp_path_factory.mktemp("stranger") / "venv")


@pytest.fixture
def shell(programs: Path, tmp_path: Path) -> Shell:
    """A shell in a folder with the stranger's `pipeline.toml`."""
    (tmp_path / "pipeline.toml").write_text(FILE)
    return Shell(tmp_path, path=programs)


@pytest.fixture
def runner(shell: Shell) -> Iterator[Running]:
    with shell.start(f"{PIPELINE} run") as running:
        running.prints("source governance: running")
        yield running


def publish(shell: Shell, entity_id: str) -> None:
    data = json.dumps({"entity_type": "machine", "entity_id": entity_id, "actor_id": "ann", "new": {"status": "new"}})
    shell.type(f"{PIPELINE} publish governance.machine.created '{data}'")


def executions(shell: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell.type(f"{PIPELINE} executions list --json"))["executions"]
    return found


def tickets(shell: Shell) -> list[tuple[str, str]]:
    database = sqlite3.connect(f"file:{shell.folder}/.pipeline/pipeline.db?mode=ro", uri=True)
    try:
        return database.execute("SELECT project, title FROM acme_tickets ORDER BY title").fetchall()
    finally:
        database.close()


def test_its_actions_are_listed(shell: Shell) -> None:
    listed = json.loads(shell.type(f"{PIPELINE} plugins --json"))
    assert listed["broken"] == 0
    plugin = {plugin["name"]: plugin for plugin in listed["plugins"]}["acme-tickets"]
    assert plugin["tables"] == ["acme_tickets"]


def test_its_options_are_checked(shell: Shell) -> None:
    assert "pipeline.toml is fine" in shell.type(f"{PIPELINE} check")
    file = shell.folder / "pipeline.toml"
    file.write_text(FILE.replace('project = "ACME"', 'projekt = "ACME"').replace('"acme-call"', '"acme-cal"'))
    said = shell.type(f"{PIPELINE} check", exit_code=1)
    assert "stage.governance.workflow[0].actions[0]" in said
    assert "acme-call" in said
    assert "stage.governance.workflow[0].actions[1].projekt" in said
    assert "project" in said


def test_they_run_as_part_of_an_execution(shell: Shell, runner: Running) -> None:
    (shell.folder / "line.txt").touch()
    publish(shell, "m-1")
    until(lambda: [found["status"] for found in executions(shell)] == ["completed"], lambda: str(executions(shell)))
    assert tickets(shell) == [("ACME", "Look at m-1")]
    [execution] = executions(shell)
    assert (shell.folder / "line.txt").read_text() == f"{execution['id']}/0 about m-1\n"


def test_while_what_one_of_them_needs_is_away_its_execution_waits_and_loses_no_try(
    shell: Shell, runner: Running
) -> None:
    publish(shell, "m-1")
    until(lambda: [found["phase"] for found in executions(shell)] == ["backing_off"], lambda: str(executions(shell)))
    assert tickets(shell) == []
    (shell.folder / "line.txt").touch()
    until(lambda: [found["status"] for found in executions(shell)] == ["completed"], lambda: str(executions(shell)))
    [execution] = executions(shell)
    shown = json.loads(shell.type(f"{PIPELINE} executions show {execution['id']} --json"))
    assert [action["failures"] for action in shown["actions"]] == [0, 0, 0]
