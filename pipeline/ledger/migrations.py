"""The schema's history: each owner of tables brings its migrations, and they are applied apart from one another."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import PluginError, UserError

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, MetaData, Table

    from pipeline.ledger.database import Database

__all__ = ["Branch", "core_branch", "differences", "migrate", "pending", "prepare"]

_LABEL: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_LOCK: Final = 0x7069_7065_6C69_6E65
"""The key of PostgreSQL's advisory lock under which one process migrates at a time."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One owner's tables and their history.

    Each branch keeps its revision in a table of its own, ``schema_<label>``. So revision ids need to be unique only
    within a branch, a branch may be added at any time, and one whose plugin is not installed is left alone.

    Attributes:
        label: The owner's name: lower-case letters, digits and ``_``.
        versions: The folder of its Alembic revision files; the first has ``down_revision = None``.
        tables: The SQLModel classes that the revisions amount to, by which a test can tell that they still do.
    """

    label: str
    versions: Path
    tables: Sequence[Any] = ()

    @property
    def version_table(self) -> str:
        """The table that holds the revision which the database is at."""
        return f"schema_{self.label}"


def core_branch() -> Branch:
    """The ledger's own tables."""
    from pipeline.ledger.job_tables import JOB_TABLES
    from pipeline.ledger.replay_table import REPLAY_TABLES
    from pipeline.ledger.tables import TABLES

    return Branch("core", Path(__file__).parent / "versions", (*TABLES, *JOB_TABLES, *REPLAY_TABLES))


async def migrate(db: Database, branches: Sequence[Branch] = ()) -> list[str]:
    """Bring the schema up to date: the core's tables, then each branch in turn, in one transaction.

    Of several processes that migrate at once, one does it and the others wait for it.

    Returns:
        What was applied, as ``label revision``.

    Raises:
        UserError: The database was migrated by a newer version of the software.
        PluginError: A branch's label, folder or revisions are wrong.
        Unavailable: The database can't be reached.
    """
    from pipeline.ledger.database import Database

    every = _checked(branches)
    unhurried = Database(db.url, command_timeout=None)  # building an index may take its time
    try:
        async with unhurried.write() as connection:
            if db.dialect == "postgresql":
                await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            return [line for branch in every for line in await connection.run_sync(_upgrade, branch)]
    finally:
        await unhurried.close()


async def pending(db: Database, branches: Sequence[Branch] = ()) -> list[str]:
    """What `migrate` would apply, as ``label revision``; empty where all is up to date. Raises what it raises."""
    every = _checked(branches)
    if not db.exists():
        return [line for branch in every for line in _missing(None, branch)]
    async with db.read() as connection:
        return [line for branch in every for line in await connection.run_sync(_missing, branch)]


async def prepare(db: Database, branches: Sequence[Branch], file: Path) -> list[str]:
    """Make a database ready for use: a SQLite file is migrated, of any other it is only asked whether it is.

    Args:
        db: The database.
        branches: The plugins' tables.
        file: The pipeline's file, for the advice.

    Returns:
        What was applied, as ``label revision``.

    Raises:
        UserError: It must be migrated first, or was by a newer version of the software.
        Unavailable: It can't be reached.
    """
    if db.dialect == "sqlite":
        return await migrate(db, branches)
    if missing := await pending(db, branches):
        raise UserError(f"the database {db.location} lacks {', '.join(missing)}: run 'pipeline migrate {file}' first")
    return []


async def differences(db: Database, branches: Sequence[Branch] = ()) -> list[str]:
    """Where the database differs from the branches' models, in Alembic's words: what a new revision should do."""
    every = _checked(branches)
    async with db.read() as connection:
        return [line for branch in every for line in await connection.run_sync(_compare, branch)]


def _checked(branches: Sequence[Branch]) -> list[Branch]:
    every = [core_branch(), *branches]
    for position, branch in enumerate(every):
        if not _LABEL.fullmatch(branch.label):
            raise PluginError(
                f"the branch {branch.label!r} of migrations needs a label of lower-case letters, digits and _"
            )
        if branch.label in [other.label for other in every[:position]]:
            raise PluginError(f"two plugins bring migrations labelled {branch.label!r}: one of them must be renamed")
        if not branch.versions.is_dir():
            raise PluginError(f"the branch {branch.label!r} has no folder of migrations at {branch.versions}")
    return every


@contextmanager
def _quiet_alembic() -> Iterator[None]:
    """It tells the log of every step; here who calls says what was applied."""
    log = logging.getLogger("alembic")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _context(connection: Connection, branch: Branch, **options: Any) -> MigrationContext:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection, opts={"version_table": branch.version_table, **options})


def _missing(connection: Connection | None, branch: Branch) -> list[str]:
    with _quiet_alembic():
        heads = _context(connection, branch).get_current_heads() if connection is not None else ()
        return [_name(branch, step) for step in _steps(branch, heads)]


def _upgrade(connection: Connection, branch: Branch) -> list[str]:
    with _quiet_alembic():
        from alembic.operations import Operations

        applied: list[Any] = []
        context = _context(connection, branch, fn=lambda heads, _: applied)
        applied += _steps(branch, context.get_current_heads())
        if applied:
            with Operations.context(context):
                context.run_migrations()
        return [_name(branch, step) for step in applied]


def _compare(connection: Connection, branch: Branch) -> list[str]:
    with _quiet_alembic():
        from alembic.autogenerate import compare_metadata

        context = _context(connection, branch, compare_type=True, include_name=_only(branch))
        return [f"{branch.label}: {change}" for change in compare_metadata(context, _metadata(branch))]


def _steps(branch: Branch, heads: tuple[str, ...]) -> list[Any]:
    """The revisions between the database's and the newest."""
    from alembic.script import ScriptDirectory
    from alembic.script.revision import ResolutionError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # how Alembic tells of a revision that it does not find
            scripts = ScriptDirectory(branch.versions, version_locations=[branch.versions])
            return scripts._upgrade_revs("heads", heads)  # type: ignore[arg-type]  # what `alembic upgrade heads` calls
    except Exception as error:
        if isinstance(error.__cause__, ResolutionError):
            known = f"{branch.label} {', '.join(heads)}"
            raise UserError(
                f"the database's schema is newer than this software ({known}): upgrade the software"
            ) from None
        raise PluginError(f"the migrations of {branch.label!r} in {branch.versions} can't be used: {error}") from error


def _name(branch: Branch, step: Any) -> str:
    return f"{branch.label} {step.revision.revision}"


def _only(branch: Branch) -> Any:
    names = {table.name for table in _tables(branch)}
    return lambda name, kind, _: kind != "table" or name in names


def _tables(branch: Branch) -> list[Table]:
    return [getattr(table, "__table__", table) for table in branch.tables]


def _metadata(branch: Branch) -> MetaData:
    """The branch's tables alone: its classes may share their metadata with others'."""
    from sqlalchemy import MetaData

    tables = _tables(branch)
    metadata = MetaData(naming_convention=tables[0].metadata.naming_convention if tables else None)
    for table in tables:
        table.to_metadata(metadata)
    return metadata
