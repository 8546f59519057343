"""What the commands of governance share: their options, the pipeline's database, and how refusals are told."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from pipeline.commands import OpenedPipeline, UserError, opened, run

if TYPE_CHECKING:
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = [
    "ActorOption", "EntityIdOption", "EntityOption", "ExecutionOption", "LimitOption", "SinceOption", "WorkflowOption",
    "asked", "each", "login", "moment", "options_of", "raise_for", "with_database",
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
    typer.Option(metavar="TIME", help="Only those made since then: a time (ISO 8601, UTC) or how long ago, as in 24h."),
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


def moment(text: str | None, now: datetime | None = None) -> datetime | None:
    """The time that an option like ``--since`` names.

    Args:
        text: A time in ISO 8601, in UTC unless it says otherwise; or a duration, which counts back from now.
        now: Now, for tests.

    Raises:
        UserError: It is neither.
    """
    from pipeline.config.models import seconds

    if text is None:
        return None
    try:
        ago = seconds(text)
    except ValueError:
        ago = None
    try:
        if isinstance(ago, float):
            return (now or datetime.now(UTC)) - timedelta(seconds=ago)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        told = "write a time as in 2026-01-31 or 2026-01-31T12:00:00Z, or how long ago, as in 24h"
        raise UserError(f"{text!r} is no time: {told}") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def login() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator"
