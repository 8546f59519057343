"""What the commands of plugins are made of: a pipeline's file opened, its database, and what is printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.cli.console import count, iso, say, show_json, show_table, warn
from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, Opened, open_file
from pipeline.errors import UserError
from pipeline.moments import moment

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipeline.config.models import PipelineConfig, QueueTable
    from pipeline.errors import Problem
    from pipeline.ledger.database import Database

__all__ = [
    "DEFAULT",
    "ConfigOption",
    "JsonOption",
    "OpenedPipeline",
    "UserError",
    "count",
    "iso",
    "moment",
    "no_such",
    "opened",
    "run",
    "say",
    "show_json",
    "show_table",
    "warn",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OpenedPipeline:
    """A pipeline's file, checked together with the plugins that are installed."""

    _opened: Opened

    @property
    def path(self) -> Path:
        """The file."""
        return self._opened.loaded.path

    @property
    def config(self) -> PipelineConfig:
        """The configuration: defaults filled in, environment applied."""
        return self._opened.loaded.config

    @property
    def queues(self) -> Mapping[str, QueueTable]:
        """Every queue of jobs by name, with its effective settings."""
        return self._opened.loaded.queues

    @property
    def use_queue(self) -> bool:
        """Whether jobs have a queue; else a runner runs them itself."""
        return self._opened.loaded.use_queue

    @property
    def extensions(self) -> Mapping[str, Sequence[Any]]:
        """What plugins return from the hooks that `pipeline_hookspecs` added, by the hook's name."""
        return self._opened.loaded.catalog.extensions

    @property
    def problems(self) -> Sequence[Problem]:
        """What is wrong with a file that was opened leniently; else empty."""
        return self._opened.loaded.problems

    def stages_using(self, handler: str) -> dict[str, BaseModel]:
        """The checked options of every stage that uses this handler, by the stage's name; may be empty.

        Of a file that was opened leniently, stages whose options are wrong are left out.
        """
        loaded = self._opened.loaded
        using = (name for name, stage in loaded.config.stage.items() if stage.use == handler)
        return {name: loaded.options(name) for name in using if loaded.has_options(name)}

    async def prepare(self, database: Database) -> None:
        """Make the database ready for use: a SQLite file is migrated, as a runner does it.

        Raises:
            UserError: It is another, and ``pipeline migrate`` must be run first.
            Unavailable: It can't be reached.
        """
        from pipeline.ledger.migrations import prepare

        await prepare(database, self._opened.plugins.branches(), self._opened.loaded.path)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The pipeline's database, closed at the end.

        Nothing is created in it: where its tables are missing, the first statement says so.
        """
        from pipeline.ledger.database import Database

        database = Database(self.config.database.url or "")
        try:
            yield database
        finally:
            await database.close()


def opened(path: Path = DEFAULT, *, lenient: bool = False) -> OpenedPipeline:
    """Read and check a pipeline's file.

    Args:
        path: The file.
        lenient: For commands that look at what a pipeline has done, and steer it: they work while somebody is changing
            the file. Only ``[pipeline]`` and ``[database]`` must be right; all else that is wrong is warned of in one
            line on standard error, and in `OpenedPipeline.problems`.

    Raises:
        UserError: There is no such file, it is wrong (then every problem is told), or a plugin can't be used. A command
            lets it pass: it is shown as its words, and the exit code is 2.
    """
    return OpenedPipeline(open_file(path, lenient=lenient))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine in an event loop of its own; returns what it returns."""
    return asyncio.run(work)


def no_such(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is nowhere, with the nearest that is known, or else all of them."""
    from pipeline.config.problems import near

    return UserError(f"there is no {what} {name!r}{near(name, (each for each in known if each))}")
