"""``pipeline migrate``: bring the database's schema up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.files import DEFAULT, FileArgument, JsonOption, open_file
from pipeline.cli.leaving import FAILED, FINE

if TYPE_CHECKING:
    from pipeline.cli.files import Opened

__all__ = ["migrate"]


def migrate(
    file: FileArgument = DEFAULT,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: say what is missing, and exit 1 if anything is.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the database's schema up to date.

    The tables are the runner's own, and those of plugins.
    """
    from pipeline.cli.console import say, show_json

    location, revisions = asyncio.run(_migrate(open_file(file), check=check))
    if as_json:
        show_json({"database": location, "up_to_date": not (check and revisions), "revisions": revisions})
    elif not revisions:
        say(f"{location} is up to date", style="green")
    else:
        say(f"{location} lacks:" if check else f"{location} was migrated to:")
        for revision in revisions:
            say(f"  {revision}")
    raise typer.Exit(FAILED if check and revisions else FINE)


async def _migrate(opened: Opened, *, check: bool) -> tuple[str, list[str]]:
    """The database's place, and the revisions that were applied, or are missing."""
    from pipeline.ledger import migrations
    from pipeline.ledger.database import Database

    database = Database(opened.loaded.config.database.url or "")
    work = migrations.pending if check else migrations.migrate
    try:
        return database.location, await work(database, opened.plugins.branches())
    finally:
        await database.close()
