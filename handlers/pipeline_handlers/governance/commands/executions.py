"""``pipeline executions``: look at workflows' executions, and steer one or many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pipeline.commands import (
    DEFAULT,
    ConfigOption,
    JsonOption,
    OpenedPipeline,
    UserError,
    count,
    opened,
    run,
    say,
    show_json,
)
from pipeline_handlers.governance.commands.asking import (
    ActorOption,
    EntityIdOption,
    EntityOption,
    LimitOption,
    SinceOption,
    WorkflowOption,
    asked,
    each,
    login,
    options_of,
    raise_for,
    refuse_unknown,
    since_of,
    with_database,
)
from pipeline_handlers.governance.commands.choosing import AllOption, Choice, DryRunOption, YesOption, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.definitions import Definitions
    from pipeline_handlers.governance.executions import ExecutionDetails
    from pipeline_handlers.governance.tables import WorkflowExecution

__all__ = ["executions"]

executions = typer.Typer(help="Look at the executions of workflows, and steer them.", no_args_is_help=True)

IdsArgument: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Executions' ids, as the list shows them.")
]
StatusOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="STATUS", help="Only in_progress, completed or failed ones.")
]
PhaseOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="PHASE", help="Only queued, running, waiting, backing_off or cancelled ones.")
]


@executions.command("list")
def list_executions(
    config: ConfigOption = DEFAULT,
    status: StatusOption = None,
    phase: PhaseOption = None,
    workflow: WorkflowOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    since: SinceOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List executions, the newest first."""
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.shown import LEAST, execution_json, execution_line, print_table

    filters = {"status": status, "phase": phase, "workflow": workflow, "entity": entity, "entity_id": entity_id}
    first = since_of(since)
    pipeline = opened(config, lenient=True)

    async def ask(database: Database, name: str) -> tuple[list[WorkflowExecution], int]:
        found = Executions(database, pipeline=name)
        if not database.exists():  # before the first run
            return [], 0
        total = await found.count(since=first, **filters)
        if not total:
            await refuse_unknown(pipeline, found, filters)
        return await found.list(limit, since=first, **filters), total

    found, total = run(with_database(pipeline, ask))
    if as_json:
        show_json({"total": total, "executions": [execution_json(one) for one in found]})
        return
    if found:
        columns = ("id", "created_at", "workflow", "entity", "status", "phase", "done", "error")
        print_table(columns, [execution_line(one) for one in found], fold=("error",), drop=LEAST)
    say(f"{len(found)} of {count(total, 'execution')}" if len(found) < total else count(total, "execution"))


@executions.command("show")
def show_execution(
    execution: Annotated[str, typer.Argument(metavar="ID", help="The execution's id, as the list shows it.")],
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Show an execution: its actions with their tries, approvals, effects, job runs, and its audit log."""
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.shown import show_details

    async def ask(database: Database, name: str) -> ExecutionDetails:
        return await Executions(database, pipeline=name).show(execution)

    details = asked(config, ask)
    if as_json:
        show_json(details.as_json())
    else:
        show_details(details)


@executions.command("retry")
def retry_executions(
    ids: IdsArgument = None,
    config: ConfigOption = DEFAULT,
    status: Annotated[str, typer.Option(metavar="STATUS", help="Only failed ones can be retried.")] = "failed",
    workflow: WorkflowOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    since: SinceOption = None,
    all_: AllOption = False,
    current_definition: Annotated[
        bool,
        typer.Option(
            "--current-definition",
            help="Go on with the workflow as the file has it now, where the actions that are done are the same.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run failed executions again, from the action on that failed; rejected approvals are asked for again.

    Name them by their ids, or choose them by options.
    """
    if status != "failed":
        raise UserError(f"only failed executions can be retried, not those that are {status!r}")
    filters = {"status": status, "workflow": workflow, "entity": entity, "entity_id": entity_id}
    choice = Choice("retry", ids or [], filters, since_of(since), all=all_, dry_run=dry_run, yes=yes, as_json=as_json)
    _retry(opened(config, lenient=True), choice, actor or login(), current_definition=current_definition)


@executions.command("cancel")
def cancel_executions(
    ids: IdsArgument = None,
    config: ConfigOption = DEFAULT,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="Only those in progress can be cancelled.")
    ] = "in_progress",
    phase: PhaseOption = None,
    workflow: WorkflowOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    since: SinceOption = None,
    all_: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit log.")] = "",
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel executions that are in progress, with their approvals and jobs.

    Name them by their ids, or choose them by options.
    """
    if status != "in_progress":
        raise UserError(f"only executions that are in_progress can be cancelled, not those that are {status!r}")
    filters = {"status": status, "phase": phase, "workflow": workflow, "entity": entity, "entity_id": entity_id}
    choice = Choice("cancel", ids or [], filters, since_of(since), all=all_, dry_run=dry_run, yes=yes, as_json=as_json)
    _cancel(opened(config, lenient=True), choice, actor or login(), reason)


def _retry(pipeline: OpenedPipeline, choice: Choice, actor: str, *, current_definition: bool) -> None:
    wanted = choose(pipeline, choice)

    async def ask(database: Database, name: str) -> tuple[dict[str, None], dict[str, str]]:
        from pipeline_handlers.governance.executions import Executions

        steering = Executions(database, pipeline=name)
        definitions = await _current(pipeline, steering, wanted) if current_definition else None
        return await each(wanted, lambda one: steering.retry(one, actor=actor, definitions=definitions))

    retried, refused = run(with_database(pipeline, ask))
    if choice.as_json:
        show_json({"retried": list(retried), "refused": refused})
    elif retried or not refused:
        say(f"{count(len(retried), 'execution')} queued again")
    raise_for(refused, told=choice.as_json)


def _cancel(pipeline: OpenedPipeline, choice: Choice, actor: str, reason: str) -> None:
    wanted = choose(pipeline, choice)

    async def ask(database: Database, name: str) -> tuple[dict[str, bool], dict[str, str]]:
        from pipeline_handlers.governance.executions import Executions

        steering = Executions(database, pipeline=name)
        return await each(wanted, lambda one: steering.cancel(one, actor=actor, reason=reason))

    found, refused = run(with_database(pipeline, ask))
    cancelled, before = ([one for one, now in found.items() if now is did] for did in (True, False))
    if choice.as_json:
        show_json({"cancelled": cancelled, "cancelled_before": before, "refused": refused})
    elif found or not refused:
        told = f", {len(before)} had been before" if before else ""
        say(f"{count(len(cancelled), 'execution')} cancelled{told}")
    raise_for(refused, told=choice.as_json)


async def _current(pipeline: OpenedPipeline, steering: Any, ids: list[str]) -> Mapping[str, Definitions]:
    """The current definitions of the stages of these executions. Raises what `options_of` raises."""
    from pipeline_handlers.governance.definitions import Definitions

    stages = {one.stage for id_ in ids if (one := await steering.get(id_)) is not None}
    return {stage: Definitions(options_of(pipeline, stage)) for stage in sorted(stages)}
