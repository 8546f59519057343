"""Which executions a command changes: those that are named, or those that its options choose, once somebody agrees."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import typer

from pipeline.commands import OpenedPipeline, UserError, count, iso, run, say, show_json
from pipeline_handlers.governance.commands.asking import refuse_unknown, with_database

if TYPE_CHECKING:
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.tables import WorkflowExecution

__all__ = ["AllOption", "Choice", "DryRunOption", "YesOption", "choose"]

AllOption: TypeAlias = Annotated[bool, typer.Option("--all", help="All that there are, where nothing else chooses.")]
DryRunOption: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Only say which ones it would be.")]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask whether the chosen ones are meant.")]

_SHOWN: Final = 20
"""How many of the chosen ones a dry run lists."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line says about which executions are meant.

    Attributes:
        action: What is to be done to them.
        ids: Those that are named.
        filters: `Executions.list`'s filters.
        since: Only those made then or later.
        all: Whether there is to be no other filter.
        dry_run: Whether they are only to be told.
        yes: Whether nobody is to be asked.
        as_json: Whether a script reads what is printed.
    """

    action: Literal["retry", "cancel"]
    ids: Sequence[str]
    filters: Mapping[str, str | None]
    since: datetime | None
    all: bool
    dry_run: bool
    yes: bool
    as_json: bool

    @property
    def narrowed(self) -> dict[str, str]:
        """The filters that somebody gave, in words: the status is the same for all that can be meant."""
        found = {name.replace("_", "-"): value for name, value in self.filters.items() if value and name != "status"}
        return found | ({"since": iso(self.since) or ""} if self.since else {})


def choose(pipeline: OpenedPipeline, choice: Choice) -> list[str]:
    """The executions that are meant, by id.

    Raises:
        UserError: Nothing is named or chosen, or both are, or nobody can be asked whether the chosen ones are meant.
        typer.Exit: It was a dry run, or whoever was asked said no.
    """
    _refuse_contradictions(choice)
    if choice.ids:
        ids, some = list(choice.ids), None
    else:
        ids, some = run(with_database(pipeline, lambda database, name: _chosen(pipeline, database, name, choice)))
    if choice.dry_run:
        _tell(choice, ids, some)
        raise typer.Exit
    if ids and not choice.ids and not choice.yes:
        _ask(choice, len(ids))
    return ids


def _refuse_contradictions(choice: Choice) -> None:
    given = [f"--{name}" for name in choice.narrowed] + (["--all"] if choice.all else [])
    if choice.ids and given:
        raise UserError(f"name executions, or choose them by {given[0]}: not both")
    if not choice.ids and not given:
        raise UserError(
            f"name the executions to {choice.action}, or choose them: --workflow, --entity, --since …, or --all"
        )
    if choice.all and len(given) > 1:
        raise UserError(f"--all and {given[0]} contradict each other: leave one of them out")


async def _chosen(
    pipeline: OpenedPipeline, database: Database, name: str, choice: Choice
) -> tuple[list[str], list[WorkflowExecution]]:
    from pipeline_handlers.governance.executions import Executions

    executions = Executions(database, pipeline=name)
    if not database.exists():  # before the first run
        return [], []
    ids = await executions.ids(since=choice.since, **choice.filters)
    if not ids:
        await refuse_unknown(pipeline, executions, choice.filters)
    some = await executions.some(ids[:_SHOWN]) if choice.dry_run else []
    return ids, some


def _tell(choice: Choice, ids: Sequence[str], some: Sequence[WorkflowExecution] | None) -> None:
    """What would be done."""
    from pipeline_handlers.governance.shown import LEAST, execution_line, print_table

    if choice.as_json:
        show_json({"dry_run": True, "total": len(ids), "executions": list(ids)})
        return
    if some:
        columns = ("id", "created_at", "workflow", "entity", "status", "phase", "done", "error")
        print_table(columns, [execution_line(one) for one in some], fold=("error",), drop=LEAST)
        if len(ids) > len(some):
            say(f"and {len(ids) - len(some):,} more")
    say(f"would {choice.action} {count(len(ids), 'execution')}; nothing was changed")


def _ask(choice: Choice, number: int) -> None:
    which = ", ".join(f"{name} {value}" for name, value in choice.narrowed.items()) or "all there are"
    question = f"{choice.action} {count(number, 'execution')} ({which})"
    if choice.as_json or not sys.stdin.isatty():
        raise UserError(f"{question}: say --yes, as nobody can be asked here, or look first with --dry-run")
    if not typer.confirm(f"{question}?", err=True):
        raise typer.Exit(1)
