"""Migrations bring any database to what the models say, for the core and for each plugin apart."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import MetaData, text
from sqlmodel import Field, SQLModel

from pipeline.errors import PluginError, Unavailable, UserError
from pipeline.ledger.database import Database
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import Branch, differences, migrate, pending
from tests.pipeline.ledger.samples import KEY

REVISION = """
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {down!r}


def upgrade():
    {upgrade}
"""
CORE = ["core 0001", "core 0002", "core 0003", "core 0004", "core 0005"]
CREATE = 'op.create_table("plugin_things", sa.Column("id", sa.Integer, primary_key=True))'
EXTEND = 'op.add_column("plugin_things", sa.Column("name", sa.String))'


class Thing(SQLModel, table=True):
    metadata: ClassVar[MetaData] = MetaData()
    __tablename__ = "plugin_things"

    id: int | None = Field(default=None, primary_key=True)
    name: str | None = None


def write_revision(folder: Path, revision: str, down: str | None, upgrade: str) -> None:
    folder.mkdir(exist_ok=True)
    source = REVISION.format(revision=revision, down=down, upgrade=upgrade)
    (folder / f"{revision}.py").write_text(source, encoding="utf-8")


@pytest.fixture
def plugin(tmp_path: Path) -> Branch:
    """A plugin's branch at its first revision; it calls it 0001, as the core does its own."""
    write_revision(tmp_path / "versions", "0001", None, CREATE)
    return Branch("plugin", tmp_path / "versions", (Thing,))


async def tables(db: Database) -> set[str]:
    catalogue = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    }
    async with db.read() as connection:
        return set((await connection.execute(text(catalogue[db.dialect]))).scalars())


async def test_the_migrated_schema_is_what_the_models_say(empty: Database) -> None:
    assert await migrate(empty) == CORE
    assert await differences(empty) == []


async def test_a_difference_is_noticed(empty: Database) -> None:
    await migrate(empty)
    async with empty.write() as connection:
        await connection.execute(text("ALTER TABLE instances RENAME COLUMN host TO hostname"))
        await connection.execute(text("DROP INDEX ix_outcomes_event_id"))

    found = "\n".join(await differences(empty))
    assert "hostname" in found
    assert "ix_outcomes_event_id" in found


async def test_migrating_again_does_nothing(empty: Database) -> None:
    await migrate(empty)

    assert await migrate(empty) == []
    assert await pending(empty) == []


async def test_what_is_pending_is_told_also_of_a_database_that_is_not_there(empty: Database) -> None:
    assert await pending(empty) == CORE
    assert empty.dialect == "postgresql" or not empty.exists()


async def test_only_what_belongs_here_is_created(empty: Database) -> None:
    await migrate(empty)

    ledger = {"progress", "dead_letters", "operator_actions", "seen_events", "outcomes", "instances", "replays"}
    jobs = {"jobs", "job_runs", "outbox"}
    assert await tables(empty) == ledger | jobs | {"schema_core"}


async def test_a_plugin_that_comes_later_is_migrated_then(empty: Database, plugin: Branch) -> None:
    await migrate(empty)

    assert await pending(empty, [plugin]) == ["plugin 0001"]
    assert await migrate(empty, [plugin]) == ["plugin 0001"]
    assert "plugin_things" in await tables(empty)


async def test_a_plugins_models_are_compared_too(empty: Database, plugin: Branch) -> None:
    await migrate(empty, [plugin])
    (missing,) = await differences(empty, [plugin])
    assert "add_column" in missing

    write_revision(plugin.versions, "0002", "0001", EXTEND)

    assert await migrate(empty, [plugin]) == ["plugin 0002"]
    assert await differences(empty, [plugin]) == []


async def test_a_plugin_that_was_uninstalled_hurts_nothing(empty: Database, plugin: Branch) -> None:
    await migrate(empty, [plugin])

    assert await pending(empty) == []
    assert await migrate(empty) == []
    assert await differences(empty) == []


async def test_a_database_of_newer_software_is_refused(empty: Database, plugin: Branch) -> None:
    write_revision(plugin.versions, "0002", "0001", EXTEND)
    await migrate(empty, [plugin])
    (plugin.versions / "0002.py").unlink()

    with pytest.raises(UserError, match="newer than this software \\(plugin 0002\\)"):
        await pending(empty, [plugin])
    with pytest.raises(UserError, match="upgrade the software"):
        await migrate(empty, [plugin])


async def test_a_migration_that_fails_leaves_nothing_behind(empty: Database, plugin: Branch) -> None:
    write_revision(plugin.versions, "0002", "0001", "raise RuntimeError('no')")

    with pytest.raises(RuntimeError, match="no"):
        await migrate(empty, [plugin])

    assert await tables(empty) == set()


@pytest.mark.parametrize("label", ["", "Plugin", "a-b", "core", "x" * 60])
async def test_a_bad_label_is_a_plugins_mistake(empty: Database, plugin: Branch, label: str) -> None:
    with pytest.raises(PluginError, match=repr(label)):
        await migrate(empty, [Branch(label, plugin.versions)])


async def test_a_missing_folder_is_a_plugins_mistake(empty: Database, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no folder"):
        await migrate(empty, [Branch("plugin", tmp_path / "nowhere")])


async def test_a_broken_history_is_a_plugins_mistake(empty: Database, plugin: Branch) -> None:
    write_revision(plugin.versions, "0002", "nowhere", EXTEND)

    with pytest.raises(PluginError, match="plugin"):
        await migrate(empty, [plugin])


async def test_migrating_says_nothing_in_the_log(empty: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await migrate(empty)

    assert [record.name for record in caplog.records if record.name.startswith("alembic")] == []


async def test_several_that_migrate_at_once_do_it_once(url: str) -> None:
    """Engines of their own stand for processes: they share nothing but the database."""
    found = await asyncio.gather(*(migrate(Database(url)) for _ in range(3)))

    assert sorted(found) == [[], [], CORE]


async def test_a_ledger_without_tables_says_what_to_do(empty: Database) -> None:
    with pytest.raises(Unavailable, match="run `pipeline migrate`"):
        await Ledger(empty).try_acquire(KEY, "runner-1")


def test_plugins_can_name_their_migrations_without_loading_a_database_library() -> None:
    code = (
        "import sys, pipeline.ledger.migrations, pipeline.ledger.units\n"
        "print([name for name in ('sqlalchemy', 'sqlmodel', 'alembic') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
