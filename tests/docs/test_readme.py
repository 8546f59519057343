"""The README, typed word for word: what it promises is what happens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, files_of, section
from tests.docs.shell import VENV, Running, Shell, until

README = ROOT / "README.md"
COMMANDS = ROOT / "docs" / "commands.md"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def typed(title: str) -> list[str]:
    """The commands of a section of the README, in order."""
    text = section(README, title)
    shown = [block.text for block in blocks("console", page=README) if block.text in text]
    return [line.removeprefix("$ ") for part in shown for line in part.splitlines() if line.startswith("$ ")]


def clone(folder: Path) -> Shell:
    """A shell in what a clone holds once ``make run`` has installed it."""
    shutil.copy(ROOT / "pipeline.toml", folder)
    (folder / ".venv").symlink_to(VENV)
    return Shell(folder)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return clone(tmp_path)


@pytest.fixture
def running(shell: Shell) -> Iterator[Running]:
    with made_run(shell) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shell, Running]]:
    """One that several tests use: those that don't mind what others publish."""
    shell = clone(tmp_path_factory.mktemp("shared"))
    with made_run(shell) as running:
        yield shell, running


@contextmanager
def made_run(shell: Shell) -> Iterator[Running]:
    """``make run``, without the installation that it begins with."""
    recipe = re.search(r"^run:.*\n\t@exec (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    with shell.start(recipe[1].replace("$(BIN)", ".venv/bin")) as running:
        running.prints("source admin: running")
        # Where the usual port was free, this is what the program `temporal` asks anyway.
        found = re.search(r"--address (\S+)", running.output)
        assert found, running.output
        shell.environment["TEMPORAL_ADDRESS"] = found[1]
        yield running


def test_try_it(shell: Shell, running: Running) -> None:
    make, publish, show, stats, routes, check, publish_bad, dead_letters = typed("Try it")
    assert make == "make run"
    assert "published event" in shell.type(publish)
    promised = next(block for block in blocks("text", page=README) if "sent pause" in block.text)
    for line in promised.text.splitlines():
        running.prints(line)

    history = shell.type(show)
    assert "WorkflowExecutionSignaled" in history
    signals = shell.type(f"{show} --output json")
    names = re.findall(r'"signalName": "(\w+)"', signals)
    assert names == ["pause"]

    # Figures are a second old at most; a person takes longer than that to type.
    until(lambda: ": healthy" in shell.type(stats, exit_code=None), lambda: shell.type(stats, exit_code=None))
    assert "'admin.workflow.*' matches" in shell.type(routes)
    assert "is fine" in shell.type(check)
    shell.type(publish_bad)
    running.prints("is dead")
    running.prints("'bom-2', None")
    assert "invalid_data" in shell.type(dead_letters)
    row = next(line for line in running.output.splitlines() if "'bom-2', None" in line)
    assert row.endswith(" dead")


def test_workflows_that_wait_for_people(shared: tuple[Shell, Running]) -> None:
    shell, _ = shared
    publish, approvals, grant, executions, show, queues = typed("Workflows that wait for people")
    shell.type(publish)
    until(lambda: "1 approval" in shell.type(approvals), lambda: shell.type(approvals))
    [approval] = json.loads(shell.type(f"{approvals} --json"))["approvals"]
    assert "granted" in shell.type(grant.replace("<id>", approval["id"]))
    until(lambda: "completed" in shell.type(executions), lambda: shell.type(executions))
    shown = shell.type(show.replace("<id>", approval["execution_id"]))
    assert "p-1 is published" in shown
    assert "Announce p-1" in shown
    assert "governance:policy" in shell.type(queues)


def test_what_the_runner_prints_next_can_be_typed(shared: tuple[Shell, Running]) -> None:
    shell, running = shared
    publish, show = (line.strip() for line in running.output.splitlines() if line.startswith("    "))
    shell.type(publish)
    running.prints("sample-workflow is paused")
    assert "WorkflowExecutionSignaled" in shell.type(show)


def test_the_commands_page_shows_what_the_runner_prints(shared: tuple[Shell, Running]) -> None:
    _, running = shared
    shown = next(block for block in blocks("text", page=COMMANDS) if "is running" in block.text)
    port = re.compile(r"127\.0\.0\.1:\d+")
    printed = {port.sub("", line) for line in running.output.splitlines()}
    assert [line for line in shown.text.splitlines() if port.sub("", line) not in printed] == []


def test_the_commands_page_shows_what_a_runners_figures_look_like(shell: Shell, running: Running) -> None:
    for data in ('{"workflow_id": "sample-workflow"}', '{"bom_id": "bom-2"}'):
        shell.type(f"pipeline publish admin.workflow.paused '{data}'")
    until(
        lambda: json.loads(shell.type("pipeline stats --json"))["instances"][0]["messages_processed"] == 2, lambda: "2"
    )
    for command in ("pipeline stats", "pipeline dead-letters list", "pipeline dead-letters show 1"):
        shown = next(
            block.text for block in blocks("console", page=COMMANDS) if block.text.startswith(f"$ {command}\n")
        )
        assert words(shell.type(command)) == words(shown.partition("\n")[2]), command


def words(text: str) -> list[str]:
    """What does not depend on time and place: the first word of each line, and the heads of columns."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return [" ".join(line) if line[0] in ("id", "source") and len(line) > 2 else line[0] for line in lines][1:]


def test_your_first_handler(shell: Shell) -> None:
    make_folder, init, run, publish = typed("Your first handler")
    shell.type(make_folder)
    shell.folder /= "mine"
    assert "wrote pipeline.toml" in shell.type(init)
    files = {name: text for name, text in files_of(README).items() if text in section(README, "Your first handler")}
    assert set(files) == {"pipeline.toml", "handlers.d/greet.py"}
    for name, text in files.items():
        (shell.folder / name).write_text(text)
    with shell.start(run) as running:
        running.prints("source events: running")
        shell.type(publish)
        running.prints("hello Ada")


def test_the_file_that_init_writes_runs(shell: Shell) -> None:
    shell.folder /= "new"
    shell.folder.mkdir()
    shell.type("pipeline init")
    commands = re.findall(r"^#   (pipeline \w+.*?)  ", (shell.folder / "pipeline.toml").read_text(), re.MULTILINE)
    check, run, publish = commands
    assert "is fine" in shell.type(check)
    with shell.start(run) as running:
        running.prints("source events: running")
        shell.type(publish)
        running.prints("hello.world id=")
