"""The app as a whole: what help costs, plugins' commands, and how mistakes are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.cli.support import HELLO, PROGRAM, process, run, write

HEAVY = (
    "faststream",
    "sqlalchemy",
    "sqlmodel",
    "alembic",
    "temporalio",
    "arq",
    "rstream",
    "fakeredis",
    "cel_expr_python",
)
# Not heavy, but what an answer within half a second has no time for.
SLOW = ("pydantic", "rich", "pipeline.plugins")
COMMANDS = (
    "run", "worker", "check", "routes", "publish", "replay", "stats", "queues", "plugins", "migrate", "init", "version",
    "dead-letters",
)  # fmt: skip
OF_PLUGINS = ("executions", "approvals", "tasks", "notifications")

LISTING = """
import sys
from pipeline.cli import main
for command in sys.argv[1:]:
    sys.argv = ["pipeline", *command.split(), "--help"]
    try:
        main()
    except SystemExit as left:
        assert left.code == 0, command
print(*sys.modules, file=sys.stderr)
"""

PLUGIN = """
import typer
from pipeline import hookimpl

app = typer.Typer()

@app.command()
def greet(name: str) -> None:
    print("hello", name)

@hookimpl
def pipeline_commands():
    return [("greet", app)]
"""


def modules_after_help_of(*commands: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LISTING, *commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.fixture
def greeter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with a command, for processes that are started."""
    site = tmp_path / "site"
    info = site / "greeter-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "greeter.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pipeline]\ngreeter = greeter\n")
    monkeypatch.setenv("PYTHONPATH", str(site))


def test_help_imports_nothing_heavy_and_nothing_slow() -> None:
    loaded = modules_after_help_of("")
    assert "pipeline.cli.app" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert loaded.isdisjoint(SLOW)


def test_the_help_of_no_command_imports_anything_heavy() -> None:
    assert modules_after_help_of(*COMMANDS, "dead-letters show").isdisjoint(HEAVY)


def test_help_lists_every_command() -> None:
    shown = run("--help")
    assert shown.code == 0
    listed = {line.split()[0] for line in shown.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == {*COMMANDS, *OF_PLUGINS}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(command: str) -> None:
    shown = run(command, "--help")
    assert shown.code == 0
    assert shown.out.startswith("Usage: ")


@pytest.mark.usefixtures("greeter")
def test_a_plugins_command_is_listed_and_works() -> None:
    assert "greet" in process("--help").stdout
    done = process("greet", "you")
    assert (done.returncode, done.stdout) == (0, "hello you\n")


@pytest.mark.usefixtures("greeter")
def test_two_plugins_with_one_command_are_told_in_the_list_of_commands(tmp_path: Path) -> None:
    (tmp_path / "site" / "greeter.py").write_text(PLUGIN.replace('[("greet", app)]', '[("executions", app)]'))
    done = process("--help")
    assert done.returncode == 0
    assert "plugin 'greeter' (greeter 1.0) registers the command 'executions', which plugin 'governance'" in done.stderr
    assert "approvals" in done.stdout


@pytest.mark.usefixtures("greeter")
def test_a_plugin_with_commands_may_implement_the_hooks_of_one_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "site" / "greeter.py").write_text(PLUGIN + "@hookimpl\ndef colours(): return []\n")
    info = tmp_path / "site" / "greeter-1.0.dist-info"
    (info / "entry_points.txt").write_text("[pipeline]\ngreeter = greeter\nzcolours = colours\n")
    hooks = "from pipeline.hookspecs import hookspec\nclass Hooks:\n    @hookspec\n    def colours(): ...\n"
    declared = "from pipeline import hookimpl\n@hookimpl\ndef pipeline_hookspecs(): return [Hooks]\n"
    (tmp_path / "site" / "colours.py").write_text(hooks + declared)
    done = process("greet", "you")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello you\n", "")
    listed = process("--help")
    assert "greet" in listed.stdout
    assert listed.stderr == ""


@pytest.mark.usefixtures("greeter")
def test_a_broken_plugin_is_named_when_its_command_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "site" / "greeter.py").write_text("raise RuntimeError('no luck')\n")
    assert process("--help").returncode == 0
    done = process("greet", "you")
    assert done.returncode == 2
    assert "greeter 1.0" in done.stderr
    assert "no luck" in done.stderr
    assert "No such command 'greet'" in done.stderr


def test_an_unknown_command_exits_2_and_names_the_nearest() -> None:
    done = run("chek")
    assert done.code == 2
    assert "Did you mean 'check'?" in done.err


def test_an_unknown_option_exits_2() -> None:
    assert run("check", "--nope").code == 2


@pytest.mark.parametrize("option", ["--version", "version"])
def test_the_version_is_the_distributions(option: str) -> None:
    from importlib.metadata import version

    assert run(option).out == f"pipeline-runner {version('pipeline-runner')}\n"


@pytest.mark.parametrize("command", [["run"], ["check"], ["routes"], ["publish", "a"], ["stats"], ["migrate"]])
def test_a_missing_file_exits_2_and_says_how_to_get_one(command: list[str]) -> None:
    done = run(*command)
    assert (done.code, done.out) == (2, "")
    assert "there is no pipeline.toml here" in done.err
    assert "pipeline init" in done.err


def test_a_folder_in_place_of_a_file_is_explained(folder: Path) -> None:
    done = run("check", str(folder))
    assert done.code == 2
    assert "is a folder" in done.err


def test_each_problem_of_a_file_stands_on_its_own_line_with_a_count() -> None:
    write(HELLO.replace("stages", "stagse").replace('group = "hello"', "grup = 1"))
    done = run("routes")
    assert (done.code, done.out) == (2, "")
    *problems, count = done.err.splitlines()
    assert count == f"{len(problems)} problems"
    assert any(line.startswith("pipeline.toml:11: route[0].stagse: ") for line in problems)
    assert all(line.startswith("pipeline.toml:") for line in problems)


def test_an_outage_exits_1_without_a_traceback() -> None:
    write(HELLO + '[database]\nurl = "postgresql://nobody@127.0.0.1:1/none"\n')
    done = run("dead-letters", "list")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: database is unavailable")


def test_nothing_is_told_by_traceback_when_the_reader_of_a_pipe_goes() -> None:
    write(HELLO)
    shell = f"{' '.join(PROGRAM)} check --schema | head -c 1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


def test_what_an_event_holds_cannot_steer_the_terminal() -> None:
    from pipeline.logs import printable

    assert printable("a\x1b[2Jb\x9bc\td\n") == "a\\x1b[2Jb\\x9bc\td\n"
