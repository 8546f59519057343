"""What the commands of governance share: their options, the pipeline's database, and how refusals are told."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from pipeline.commands import OpenedPipeline, UserError, moment, no_such, opened, run
from pipeline.moments import WRITTEN

if TYPE_CHECKING:
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = [
    "ActorOption", "EntityIdOption", "EntityOption", "ExecutionOption", "LimitOption", "SinceOption", "WorkflowOption",
    "asked", "each", "login", "options_of", "raise_for", "refuse_unknown", "since_of", "with_database",
]  # fmt: skip

K = TypeVar("K", str, int)
T = TypeVar("T")

LimitOption: TypeAlias = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")]
WorkflowOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this workflow.")]
EntityOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Only about this type, as in policy.")
]
EntityIdOption: TypeAlias = Annotated[str | None, typer.Option(metavar="ID", help="Only about the entity of this id.")]
ExecutionOption: TypeAlias = Annotated[str | None, typer.Option(metavar="ID", help="Only of this execution.")]
SinceOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TIME", help=f"Only those made since then: {WRITTEN}."),
]
ActorOption: TypeAlias = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who does it; by default your login.")
]


def asked(config: Path, question: Callable[[Database, str], Awaitable[T]]) -> T:
    """What the pipeline's database answers; mistakes elsewhere in the file are only warned of."""
    return run(with_database(opened(config, lenient=True), question))


async def with_database(pipeline: OpenedPipeline, question: Callable[[Database, str], Awaitable[T]]) -> T:
    """Ask a question with the pipeline's database and its name."""
    async with pipeline.database() as database:
        return await question(database, pipeline.config.pipeline.name)


def options_of(pipeline: OpenedPipeline, stage: str) -> GovernanceOptions:
    """The options of a governance stage.

    Raises:
        ConfigError: The file is wrong, so that they can't be told.
        UserError: It has no such stage.
    """
    from pipeline.errors import ConfigError
    from pipeline_handlers.governance.options import GovernanceOptions

    options = pipeline.stages_using("governance").get(stage)
    if options is None and pipeline.problems:
        raise ConfigError(pipeline.problems)  # what comes next, the definitions say
    if not isinstance(options, GovernanceOptions):
        raise UserError(
            f"the execution belongs to the stage {stage!r}, which is no governance stage of this file: "
            "name the file that it comes from with --config"
        )
    return options


async def each(ids: Iterable[K], do: Callable[[K], Awaitable[T]]) -> tuple[dict[K, T], dict[K, str]]:
    """Do it for each; returns what came of it, and why it was refused, by id."""
    done: dict[K, T] = {}
    refused: dict[K, str] = {}
    for one in dict.fromkeys(ids):
        try:
            done[one] = await do(one)
        except UserError as error:
            refused[one] = str(error)
    return done, refused


def raise_for(refused: Mapping[str, str], *, told: bool) -> None:
    """End the command with exit code 2 where something was refused, and say what, unless that was told."""
    if refused and told:
        raise typer.Exit(2)
    if refused:
        raise UserError("\n".join(refused.values()))


def since_of(text: str | None) -> datetime | None:
    """The time that ``--since`` names, if it is given. Raises `UserError`."""
    return None if text is None else moment(text)


async def refuse_unknown(pipeline: OpenedPipeline, executions: Executions, filters: Mapping[str, str | None]) -> None:
    """Ask this where nothing was found: a name that is nowhere is a mistake, and not good news.

    Raises:
        UserError: Neither the file has such a workflow or entity, nor any execution.
    """
    from pipeline_handlers.governance.options import ANY_ENTITY, GovernanceOptions

    if pipeline.problems:  # the file may have it where it can't be read
        return
    stages = pipeline.stages_using("governance").values()
    options = [each for each in stages if isinstance(each, GovernanceOptions)]
    in_file = {
        "workflow": {workflow.name for each in options for workflow in each.workflows},
        "entity": {entity for each in options for entity in each.known_entities},
    }
    for name, known in in_file.items():
        wanted = filters.get(name)
        if wanted is None or wanted in known or ANY_ENTITY in known:
            continue
        if wanted not in (stored := await executions.names(name)):
            raise no_such(name, wanted, known | stored)


def login() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator"
