"""What plugins' commands are made of: a file opened with its plugins, its database, and errors as words."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from pipeline import commands
from pipeline.commands import ConfigOption, JsonOption, UserError, opened, show_json, show_table
from pipeline.errors import ConfigError, PipelineError
from pipeline.ledger.migrations import migrate
from tests.pipeline.cli.support import TWO_SOURCES

FILE = (
    TWO_SOURCES
    + """
[jobs]
concurrency = 3

[stage.slow]
use = "log"
async = true
prefix = "slow "
"""
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL", "REDIS_HOST", "PIPELINE_BROKER_URL", "RABBITMQ_HOST"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE)
    return path


def test_a_file_is_opened_with_its_configuration_and_its_queues(file: Path) -> None:
    pipeline = opened(file)
    assert list(pipeline.config.source) == ["admin", "sales"]
    assert pipeline.use_queue
    assert {name: queue.concurrency for name, queue in pipeline.queues.items()} == {"stages": 3}
    assert "nothing of this name" not in pipeline.extensions


def test_the_stages_of_a_handler_are_found_with_their_checked_options(file: Path) -> None:
    found = opened(file).stages_using("log")
    assert sorted(found) == ["big", "log", "slow"]
    assert found["slow"].prefix == "slow "  # type: ignore[attr-defined]
    assert opened(file).stages_using("audit") == {}


async def test_the_database_is_the_pipelines_own_and_is_closed(file: Path) -> None:
    async with opened(file).database() as database:
        await migrate(database)
        async with database.read() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM jobs"))).scalar_one() == 0
    assert (file.parent / ".pipeline" / "pipeline.db").exists()


def test_a_database_that_is_not_there_or_lacks_its_tables_says_so(file: Path) -> None:
    async def ask() -> None:
        async with opened(file).database() as database, database.read() as connection:
            await connection.execute(text("SELECT count(*) FROM jobs"))

    with pytest.raises(PipelineError, match=r"there is no file \.pipeline/pipeline\.db yet"):
        commands.run(ask())
    Path(".pipeline").mkdir()
    Path(".pipeline/pipeline.db").touch()
    with pytest.raises(PipelineError, match="run `pipeline migrate`"):
        commands.run(ask())


def test_a_file_that_is_not_there_or_wrong_is_a_users_mistake(file: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        opened(file.with_name("other.toml"))
    file.write_text(FILE.replace("stages = ", "stagse = "))
    with pytest.raises(ConfigError, match="did you mean 'stages'"):
        opened(file)


def test_a_command_is_made_of_these(file: Path) -> None:
    app = typer.Typer()

    @app.command()
    def stages(handler: Annotated[str, typer.Argument()], config: ConfigOption, as_json: JsonOption = False) -> None:
        async def ask() -> list[str]:
            await asyncio.sleep(0)
            return sorted(opened(config).stages_using(handler))

        found = commands.run(ask())
        show_json({"stages": found}) if as_json else show_table(("stage",), [(name,) for name in found])

    def ran(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    assert ran("log", "-c", str(file)).split() == ["stage", "big", "log", "slow"]
    assert '"slow"' in ran("log", "--config", str(file), "--json")


def test_importing_it_imports_no_heavy_library() -> None:
    script = (
        "import sys, pipeline.commands\n"
        "print(sorted({'faststream', 'sqlalchemy', 'sqlmodel', 'temporalio', 'arq', 'rich.table'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
