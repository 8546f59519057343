"""``pipeline approvals``: look at what workflows wait for, and decide."""

from __future__ import annotations

import uuid
from pathlib import Path
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
    EntityIdOption,
    EntityOption,
    ExecutionOption,
    LimitOption,
    WorkflowOption,
    options_of,
    refuse_unknown,
    with_database,
)

if TYPE_CHECKING:
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.approvals import Approvals, Decision
    from pipeline_handlers.governance.requests import Decided
    from pipeline_handlers.governance.tables import Approval

__all__ = ["approvals"]

approvals = typer.Typer(help="Look at approvals that workflows wait for, and decide.", no_args_is_help=True)

ApprovalArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="The approval's id, or its execution's.")
]
ApproverOption: TypeAlias = Annotated[str, typer.Option("--as", metavar="APPROVER", help="Who decides.")]
CommentOption: TypeAlias = Annotated[str | None, typer.Option(metavar="TEXT", help="What the approver says.")]


@approvals.command("list")
def list_approvals(
    config: ConfigOption = DEFAULT,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="Only open, granted, rejected, expired, cancelled ones, or all.")
    ] = "open",
    approver: Annotated[str | None, typer.Option(metavar="NAME", help="Only those that they may decide.")] = None,
    execution: ExecutionOption = None,
    workflow: WorkflowOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List approvals, the newest first; by default those that are open."""
    from pipeline_handlers.governance.approvals import ApprovalRecords
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.shown import approval_json, approval_line, print_table

    filters = {"execution": execution, "workflow": workflow, "entity": entity, "entity_id": entity_id}

    pipeline = opened(config, lenient=True)

    async def ask(database: Database, name: str) -> tuple[list[Approval], dict[str, Any]]:
        records = ApprovalRecords(database)
        if not database.exists():  # before the first run
            return [], {}
        wanted = None if status == "all" else status
        found = await records.list(limit, status=wanted, approver=approver, **filters)
        if not found:
            await refuse_unknown(pipeline, Executions(database, pipeline=name), filters)
        return found, await records.decisions(one.id for one in found)

    found, decisions = run(with_database(pipeline, ask))
    if as_json:
        show_json({"approvals": [approval_json(one, decisions[one.id]) for one in found]})
        return
    if found:
        columns = ("id", "created_at", "workflow", "entity", "mode", "approvers", "decided", "status", "due_at")
        lines = [approval_line(one, decisions[one.id]) for one in found]
        least = ("created_at", "mode", "due_at", "decided", "workflow")
        print_table(columns, lines, fold=("approvers", "decided"), drop=least)
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

    pipeline = opened(config, lenient=True)

    async def ask(database: Database, name: str) -> tuple[Decided, str]:
        found = await Executions(database, pipeline=name).of_approval(id_)
        if found is None and "/" in id_:
            raise UserError(f"there is no approval {id_!r}: 'pipeline approvals list' shows them")
        execution = found or await Executions(database, pipeline=name).get(id_)
        if execution is None:
            raise UserError(
                f"there is no approval, and no execution, {id_!r}: 'pipeline approvals list --status all' shows them"
            )
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

    decided, told = run(with_database(pipeline, ask))
    if as_json:
        show_json({name: getattr(decided, name) for name in ("approval_id", "execution_id", "status", "repeated")})
        return
    say(told)


def _approvals(pipeline: OpenedPipeline, database: Database, stage: str) -> Approvals:
    """The approvals of a stage, by the definitions in the pipeline's file."""
    from pipeline_handlers.governance.approvals import Approvals
    from pipeline_handlers.governance.definitions import Definitions

    options = options_of(pipeline, stage)
    return Approvals(database, Definitions(options), options, pipeline=pipeline.config.pipeline.name)
