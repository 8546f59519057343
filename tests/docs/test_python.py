"""Every Python block of the docs compiles; those that are handlers load, and those that are tests pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.plugins import load_plugins
from tests.docs.blocks import ROOT, Block, blocks, files_of
from tests.docs.shell import Shell

BLOCKS = blocks("python")
HANDLERS = [block for block in BLOCKS if "@handler(" in block.text or "def pipeline_handlers" in block.text]
LOCAL = [block for block in HANDLERS if not block.info.startswith("src/")]
LIBRARY = ROOT / "docs" / "library.md"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", LOCAL, ids=str)
def test_its_handlers_load(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "handlers.py"
    file.write_text(block.text)
    plugin = load_plugins([file], installed=()).require_sound().loaded[0]
    assert plugin.handlers


def test_there_are_handlers_to_load() -> None:
    assert len(LOCAL) > 6


def written(page: str, folder: Path) -> Path:
    """The folder, with every file in it that a page shows."""
    for name, text in files_of(ROOT / page).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def run_tests(folder: Path, *options: str) -> str:
    """Run the tests in a folder, as its owner would."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_tests_of_handlers_pass(tmp_path: Path) -> None:
    assert "4 passed" in run_tests(written("docs/handlers.md", tmp_path))


@pytest.mark.slow
def test_the_test_of_a_plugin_passes(tmp_path: Path) -> None:
    folder = written("docs/plugins.md", tmp_path)
    options = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function", "pythonpath=src")
    assert "1 passed" in run_tests(folder, *(part for option in options for part in ("-o", option)))


@pytest.mark.slow
def test_the_rows_and_counts_of_the_visits_arrive(tmp_path: Path) -> None:
    folder = written("docs/handlers.md", tmp_path)
    file = folder / "pipeline.toml"
    file.write_text(file.read_text().replace('stages = ["greet"]', 'stages = ["welcome", "visits"]'))
    shell = Shell(folder)
    for _ in range(2):
        shell.type("""pipeline publish person.arrived '{"name": "Ada"}'""")
    with shell.start("pipeline run") as runner:
        runner.prints("welcome Ada\nwelcome Ada\n")
    query = "import sqlite3; print(*sqlite3.connect('.pipeline/pipeline.db').execute('SELECT {}'))"
    assert shell.type(f'python -c "{query.format("name, visits FROM visitors")}"') == "('Ada', 2)\n"
    assert shell.type(f'python -c "{query.format("count(*) FROM visits")}"') == "(2,)\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["app.py", "health.py", "combined.py"])
def test_the_apps_run_the_pipeline(name: str, tmp_path: Path) -> None:
    folder = written("docs/library.md", tmp_path)
    shell = Shell(folder)
    write_minimal(folder)
    script = f"""
import asyncio
from {Path(name).stem} import app

async def main():
    async with app.router.lifespan_context(app) as state:
        print("running:", state["pipeline"].is_running)
    print("running:", state["pipeline"].is_running)

asyncio.run(main())
"""
    (folder / "main.py").write_text(script)
    assert shell.type("python main.py").endswith("running: True\nrunning: False\n")


@pytest.mark.slow
def test_the_health_endpoint_says_how_the_pipeline_is(tmp_path: Path) -> None:
    folder = written("docs/library.md", tmp_path)
    write_minimal(folder)
    script = """
from fastapi.testclient import TestClient
from health import app

with TestClient(app) as client:
    answer = client.get("/health")
    while answer.status_code != 200:
        assert answer.status_code == 503
        answer = client.get("/health")
    print(answer.json()["is_healthy"], answer.json()["sources"]["s"]["state"])
"""
    (folder / "main.py").write_text(script)
    assert Shell(folder).type("python -W ignore main.py") == "True running\n"


@pytest.mark.slow
def test_the_programs_run_the_pipeline(tmp_path: Path) -> None:
    folder = written("docs/library.md", tmp_path)
    write_minimal(folder)
    shell = Shell(folder)
    assert shell.type("python beside.py") == "0\n"
    shell.type("pipeline publish hello.world")
    with shell.start("python alone.py") as running:
        running.prints("hello.world")


def write_minimal(folder: Path) -> None:
    (folder / "pipeline.toml").write_text(
        '[source.s]\nstream = "st"\ngroup = "g"\n[[route]]\nmatch = "#"\nstages = ["log"]\n'
    )
