"""``pipeline tasks`` and ``pipeline notifications``: what workflows left for people, and that it is done or read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pipeline.commands import DEFAULT, ConfigOption, JsonOption, count, iso, opened, run, say, show_json
from pipeline_handlers.governance.commands.asking import (
    ActorOption,
    EntityIdOption,
    EntityOption,
    ExecutionOption,
    LimitOption,
    asked,
    each,
    login,
    raise_for,
    refuse_unknown,
    with_database,
)

if TYPE_CHECKING:
    from pipeline.ledger.database import Database

__all__ = ["notifications", "tasks"]

tasks = typer.Typer(help="Look at the tasks that workflows gave people, and say what is done.", no_args_is_help=True)
notifications = typer.Typer(help="Look at the notifications of workflows, and say what is read.", no_args_is_help=True)

IdsArgument: TypeAlias = Annotated[
    list[int], typer.Argument(metavar="ID...", min=1, max=2**63 - 1, help="As the list shows them.")
]


@tasks.command("list")
def list_tasks(
    config: ConfigOption = DEFAULT,
    status: Annotated[str, typer.Option(metavar="STATUS", help="Only open or done ones, or all.")] = "open",
    assignee: Annotated[str | None, typer.Option(metavar="NAME", help="Only those that they are to do.")] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="PRIORITY", help="Only low, normal, high or urgent ones.")
    ] = None,
    execution: ExecutionOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List tasks, the newest first; by default those that are open."""
    filters = {"status": status, "assignee": assignee, "priority": priority}
    columns = ("id", "created_at", "title", "entity", "assignee", "priority", "status", "due_at")
    place = {"execution": execution, "entity": entity, "entity_id": entity_id}
    _list("task", config, filters | place, limit, columns, as_json=as_json)


@tasks.command("done")
def end_tasks(
    ids: IdsArgument, config: ConfigOption = DEFAULT, actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Say that tasks are done."""
    from pipeline_handlers.governance.left import Tasks

    def do(database: Database, name: str) -> Callable[[int], Awaitable[bool]]:
        return lambda one: Tasks(database, pipeline=name).done(one, actor=actor or login())

    _end("task", "done", config, ids, do, as_json=as_json)


@notifications.command("list")
def list_notifications(
    config: ConfigOption = DEFAULT,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="Only unread, read or sent ones (by e-mail or webhook), or all.")
    ] = "unread",
    recipient: Annotated[str | None, typer.Option("--to", metavar="NAME", help="Only those for them.")] = None,
    channel: Annotated[
        str | None, typer.Option(metavar="CHANNEL", help="Only those by in_app, email or webhook.")
    ] = None,
    execution: ExecutionOption = None,
    entity: EntityOption = None,
    entity_id: EntityIdOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List notifications, the newest first; by default those in the app that are unread."""
    filters = {"status": status, "recipient": recipient, "channel": channel}
    columns = ("id", "created_at", "channel", "recipient", "entity", "subject", "message", "status")
    place = {"execution": execution, "entity": entity, "entity_id": entity_id}
    _list("notification", config, filters | place, limit, columns, as_json=as_json)


@notifications.command("read")
def read_notifications(
    ids: IdsArgument, config: ConfigOption = DEFAULT, actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Say that notifications in the app are read."""
    from pipeline_handlers.governance.left import Notifications

    def do(database: Database, name: str) -> Callable[[int], Awaitable[bool]]:
        return lambda one: Notifications(database, pipeline=name).read(one, actor=actor or login())

    _end("notification", "read", config, ids, do, as_json=as_json)


def _list(
    what: str, config: Path, filters: Mapping[str, str | None], limit: int, columns: Sequence[str], *, as_json: bool
) -> None:
    from pipeline_handlers.governance.executions import Executions
    from pipeline_handlers.governance.left import Notifications, Tasks
    from pipeline_handlers.governance.shown import print_table

    given = {name: None if (name, value) == ("status", "all") else value for name, value in filters.items()}

    pipeline = opened(config, lenient=True)

    async def ask(database: Database, name: str) -> tuple[Sequence[Any], int]:
        found = (Tasks if what == "task" else Notifications)(database, pipeline=name)
        if not database.exists():  # before the first run
            return [], 0
        total = await found.count(**given)
        if not total:
            await refuse_unknown(pipeline, Executions(database, pipeline=name), given)
        return await found.list(limit, **given), total

    found, total = run(with_database(pipeline, ask))
    rows = [_plain(one) for one in found]
    if as_json:
        show_json({"total": total, f"{what}s": rows})
        return
    if rows:
        print_table(columns, [row | {"entity": f"{row['entity_type']}/{row['entity_id']}"} for row in rows])
    say(f"{len(rows)} of {count(total, what)}" if len(rows) < total else count(total, what))


def _plain(row: Any) -> dict[str, Any]:
    """A row as JSON values."""
    plain: dict[str, Any] = row.model_dump(mode="json")
    return plain | {name: iso(getattr(row, name)) for name in plain if name.endswith("_at")}


def _end(
    what: str,
    became: str,
    config: Path,
    ids: Sequence[int],
    do: Callable[[Database, str], Callable[[int], Awaitable[bool]]],
    *,
    as_json: bool,
) -> None:
    async def ask(database: Database, name: str) -> tuple[dict[int, bool], dict[int, str]]:
        return await each(ids, do(database, name))

    found, refused = asked(config, ask)
    now, before = ([one for one, changed in found.items() if changed is wanted] for wanted in (True, False))
    if as_json:
        show_json({became: now, f"{became}_before": before, "refused": {str(one): why for one, why in refused.items()}})
    elif found:
        told = f", {len(before)} had been before" if before else ""
        say(f"{count(len(now), what)} {became}{told}")
    raise_for({str(one): why for one, why in refused.items()}, told=as_json)
