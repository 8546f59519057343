"""``pipeline executions`` and ``pipeline approvals``: look at workflows' executions, and steer them."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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

if TYPE_CHECKING:
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.approvals import Approvals, Decision
    from pipeline_handlers.governance.requests import Decided
    from pipeline_handlers.governance.tables import Approval, WorkflowExecution

__all__ = ["approvals", "executions"]

T = TypeVar("T")

executions = typer.Typer(help="Look at the executions of workflows, and steer them.", no_args_is_help=True)
approvals = typer.Typer(help="Look at approvals that workflows wait for, and decide.", no_args_is_help=True)

LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")]
WorkflowOption = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this workflow.")]
EntityOption = Annotated[str | None, typer.Option(metavar="TYPE", help="Only about this type, as in policy.")]
EntityIdOption = Annotated[str | None, typer.Option(metavar="ID", help="Only about the entity of this id.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Executions' ids, as the list shows them.")]
ActorOption = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who does it; by default your login.")]
ApprovalArgument = Annotated[str, typer.Argument(metavar="ID", help="The approval's id, or its execution's.")]
ApproverOption = Annotated[str, typer.Option("--as", metavar="APPROVER", help="Who decides.")]
CommentOption = Annotated[str | None, typer.Option(metavar="TEXT", help="What the approver says.")]


@executions.command("list")
def list_executions(
    config: ConfigOption = DEFAULT,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only in_progress, completed or failed ones.")
    ] = None,
    phase: Annotated[
        str | None, typer.Option(metavar="PHASE", help="Only queued, running, waiting, backing_off or cancelled ones.")
    ] = None,
    workflow: WorkflowOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List executions, the newest first."""
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.shown import execution_json, print_table

    filters = {"status": status, "phase": phase, "workflow": workflow, "entity": entity, "entity_id": entity_id}

    async def ask(database: Database, name: str) -> tuple[list[WorkflowExecution], int]:
        found = Executions(database, pipeline=name)
        if not database.exists():  # before the first run
            return [], 0
        return await found.list(limit, **filters), await found.count(**filters)

    found, total = _asked(config, ask)
    if as_json:
        show_json({"total": total, "executions": [execution_json(one) for one in found]})
        return
    if found:
        columns = ("id", "created_at", "workflow", "entity", "status", "phase", "done", "error")
        print_table(columns, [execution_json(one) | {"done": f"{one.position}/{one.actions}"} for one in found])
    say(f"{len(found)} of {count(total, 'execution')}" if len(found) < total else count(total, "execution"))


@executions.command("show")
def show_execution(
    execution: Annotated[str, typer.Argument(metavar="ID", help="The execution's id, as the list shows it.")],
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Show an execution: its actions with their tries, approvals, effects, job runs, and its audit log."""
    from pipeline_handlers.governance.executions import ExecutionDetails, Executions
    from pipeline_handlers.governance.shown import show_details

    async def ask(database: Database, name: str) -> ExecutionDetails:
        return await Executions(database, pipeline=name).show(execution)

    details = _asked(config, ask)
    if as_json:
        show_json(details.as_json())
    else:
        show_details(details)


@executions.command("retry")
def retry_executions(
    ids: IdsArgument, config: ConfigOption = DEFAULT, actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Run failed executions again, from the action on that failed; rejected approvals are asked for again."""
    from pipeline_handlers.governance.executions import Executions

    async def ask(database: Database, name: str) -> tuple[dict[str, None], dict[str, str]]:
        steering = Executions(database, pipeline=name)
        return await _each(ids, lambda one: steering.retry(one, actor=actor or _login()))

    retried, refused = _asked(config, ask)
    if as_json:
        show_json({"retried": list(retried), "refused": refused})
    elif retried:
        say(f"{count(len(retried), 'execution')} queued again")
    _raise_for(refused, told=as_json)


@executions.command("cancel")
def cancel_executions(
    ids: IdsArgument,
    config: ConfigOption = DEFAULT,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit log.")] = "",
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel executions that are in progress, with their approvals and jobs."""
    from pipeline_handlers.governance.executions import Executions

    async def ask(database: Database, name: str) -> tuple[dict[str, bool], dict[str, str]]:
        steering = Executions(database, pipeline=name)
        return await _each(ids, lambda one: steering.cancel(one, actor=actor or _login(), reason=reason))

    found, refused = _asked(config, ask)
    cancelled, before = ([one for one, now in found.items() if now is wanted] for wanted in (True, False))
    if as_json:
        show_json({"cancelled": cancelled, "cancelled_before": before, "refused": refused})
    elif found:
        told = f", {len(before)} had been before" if before else ""
        say(f"{count(len(cancelled), 'execution')} cancelled{told}")
    _raise_for(refused, told=as_json)


@approvals.command("list")
def list_approvals(
    config: ConfigOption = DEFAULT,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="Only open, granted, rejected, expired, cancelled ones, or all.")
    ] = "open",
    approver: Annotated[str | None, typer.Option(metavar="NAME", help="Only those that they may decide.")] = None,
    execution: Annotated[str | None, typer.Option(metavar="ID", help="Only of this execution.")] = None,
    workflow: WorkflowOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List approvals, the newest first; by default those that are open."""
    from pipeline_handlers.governance.approvals import ApprovalRecords
    from pipeline_handlers.governance.shown import approval_json, approval_line, print_table

    filters = {"execution": execution, "workflow": workflow, "entity": entity, "entity_id": entity_id}

    async def ask(database: Database, name: str) -> tuple[list[Approval], dict[str, Any]]:
        records = ApprovalRecords(database)
        if not database.exists():  # before the first run
            return [], {}
        wanted = None if status == "all" else status
        found = await records.list(limit, status=wanted, approver=approver, **filters)
        return found, await records.decisions(one.id for one in found)

    found, decisions = _asked(config, ask)
    if as_json:
        show_json({"approvals": [approval_json(one, decisions[one.id]) for one in found]})
        return
    if found:
        columns = ("id", "created_at", "workflow", "entity", "mode", "approvers", "decided", "status", "due_at")
        print_table(columns, [approval_line(one, decisions[one.id]) for one in found])
    say(count(len(found), "approval"))


@approvals.command("grant")
def grant_approval(
    approval: ApprovalArgument,
    approver: ApproverOption,
    config: ConfigOption = DEFAULT,
    comment: CommentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grant what an execution waits for."""
    _decide(config, approval, approver, "granted", comment, as_json=as_json)


@approvals.command("reject")
def reject_approval(
    approval: ApprovalArgument,
    approver: ApproverOption,
    config: ConfigOption = DEFAULT,
    comment: CommentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reject what an execution waits for."""
    _decide(config, approval, approver, "rejected", comment, as_json=as_json)


def _decide(config: Path, id_: str, approver: str, decision: Decision, comment: str | None, *, as_json: bool) -> None:
    from pipeline.errors import Reject, Retry
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.shown import came_to
    from pipeline_handlers.governance.steering import no_execution

    pipeline = opened(config)

    async def ask(database: Database, name: str) -> tuple[Decided, str]:
        found = await Executions(database, pipeline=name).of_approval(id_)
        if found is None and "/" in id_:
            raise UserError(f"there is no approval {id_!r}: 'pipeline approvals list' shows them")
        execution = found or await Executions(database, pipeline=name).get(id_)
        if execution is None:
            raise no_execution(id_)
        approvals = _approvals(pipeline, database, execution.stage)
        try:
            decided = await approvals.decide(
                execution.id, approver, decision, comment=comment, request_id=f"command:{uuid.uuid4()}",
                approval_id=None if found is None else id_,
            )  # fmt: skip
        except (Reject, Retry) as error:
            raise UserError(str(error)) from None
        [approval] = await approvals.list(1, id=decided.approval_id)
        return decided, came_to(approval, await approvals.decisions([approval.id]), approver, decided)

    decided, told = run(_with_database(pipeline, ask))
    if as_json:
        show_json({name: getattr(decided, name) for name in ("approval_id", "execution_id", "status", "repeated")})
        return
    say(told)


def _approvals(pipeline: OpenedPipeline, database: Database, stage: str) -> Approvals:
    """The approvals of a stage, by the definitions in the pipeline's file."""
    from pipeline_handlers.governance.approvals import Approvals
    from pipeline_handlers.governance.definitions import Definitions
    from pipeline_handlers.governance.options import GovernanceOptions

    options = pipeline.stages_using("governance").get(stage)
    if not isinstance(options, GovernanceOptions):
        raise UserError(
            f"the execution belongs to the stage {stage!r}, which is no governance stage of this file: "
            "name the file that it comes from with --config"
        )
    return Approvals(database, Definitions(options), options, pipeline=pipeline.config.pipeline.name)


async def _each(ids: Iterable[str], do: Callable[[str], Awaitable[T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Do it for each; returns what came of it, and why it was refused, by id."""
    done: dict[str, T] = {}
    refused: dict[str, str] = {}
    for one in dict.fromkeys(ids):
        try:
            done[one] = await do(one)
        except UserError as error:
            refused[one] = str(error)
    return done, refused


def _raise_for(refused: Mapping[str, str], *, told: bool) -> None:
    """End the command with exit code 2 where something was refused, and say what, unless that was told."""
    if refused and told:
        raise typer.Exit(2)
    if refused:
        raise UserError("\n".join(refused.values()))


def _asked(config: Path, question: Callable[[Database, str], Awaitable[T]]) -> T:
    """What the pipeline's database answers."""
    return run(_with_database(opened(config), question))


async def _with_database(pipeline: OpenedPipeline, question: Callable[[Database, str], Awaitable[T]]) -> T:
    async with pipeline.database() as database:
        return await question(database, pipeline.config.pipeline.name)


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator"
