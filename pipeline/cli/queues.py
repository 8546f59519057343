"""``pipeline queues``: how the queues of jobs stand, and which jobs are on them; SQL knows, and Redis may be down."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, open_file

if TYPE_CHECKING:
    from pipeline.config.load import Loaded

__all__ = ["app"]

app = typer.Typer(invoke_without_command=True)

_REDIS_SECONDS = 3.0
_PLACE_OF_HINTS = ("jobs", "jobs.url", "jobs.prefix")
_COLUMNS = ("queued", "scheduled", "backing_off", "running", "completed", "failed")


@app.callback()
def queues(context: typer.Context, config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Show the queues of jobs: how many wait, run, and of those runs that are kept completed and failed."""
    from pipeline.cli.console import show_json

    if context.invoked_subcommand is not None:
        return
    found = asyncio.run(_collect(open_file(config, lenient=True).loaded))
    if as_json:
        show_json(found)
    else:
        _show(found)


@app.command("jobs")
def jobs(
    queue: Annotated[str | None, typer.Argument(metavar="QUEUE", help="Only of this queue.")] = None,
    config: ConfigOption = DEFAULT,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Only queued, scheduled, backing_off, running or failed ones."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the jobs that are to be done, those first that are due first; with --state failed, those that failed."""
    from pipeline.cli.queue_jobs import show_jobs

    show_jobs(open_file(config, lenient=True).loaded, queue, state, limit, as_json=as_json)


async def _collect(loaded: Loaded) -> dict[str, Any]:
    """The figures of every queue, as JSON values; with Redis, how many hints it holds, or why it does not answer."""
    from pipeline.jobs.clock import Clock
    from pipeline.jobs.figures import OutboxFigures, QueueFigures, outbox_figures, queue_figures
    from pipeline.ledger.database import Database

    database, clock = Database(loaded.config.database.url or ""), Clock()
    name = loaded.config.pipeline.name
    figures, outbox = [QueueFigures(queue) for queue in sorted(loaded.queues)], OutboxFigures()
    try:
        if database.exists():  # else nothing has run yet
            async with database.read() as connection:
                await clock.measure(connection)
            figures = await queue_figures(database, loaded.queues, clock.now(), name)
            outbox = await outbox_figures(database, name)
    finally:
        await database.close()
    rows = [asdict(one) for one in figures]
    transport = await _add_hints(loaded, rows)
    return {"pipeline": name, "transport": transport, "queues": rows, "outbox": asdict(outbox)}


async def _add_hints(loaded: Loaded, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """To each queue, how many hints Redis holds; None where it is not asked. Returns what carries the hints."""
    for row in rows:
        row["hints"] = None
    url = loaded.config.jobs.url
    if wrong := [problem for problem in loaded.problems if problem.path in _PLACE_OF_HINTS]:
        return {"kind": "redis", "url": None, "problem": f"{wrong[0].path}: {wrong[0].message}"}
    if url is None:
        return {"kind": "embedded" if loaded.use_queue else "inline", "url": None, "problem": None}
    from pipeline.config.redact import redact
    from pipeline.errors import PipelineError
    from pipeline.jobs.service import hint_queue

    problem = None
    try:
        hints = hint_queue(url, loaded.config.jobs.prefix)
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                await hints.probe()
                backlogs = await hints.backlogs([row["name"] for row in rows])
                for row in rows:
                    row["hints"] = backlogs[row["name"]].hints
        finally:
            await hints.close()
    except (PipelineError, TimeoutError) as error:
        problem = str(error) or f"no answer within {_REDIS_SECONDS:g} s"
    return {"kind": "redis", "url": redact(url), "problem": problem}


def _show(found: dict[str, Any]) -> None:
    from pipeline.cli.console import say, show_table

    transport, outbox = found["transport"], found["outbox"]
    if outbox["refused"]:
        say(f"outbox: {outbox['refused']} messages are never published: {outbox['error']}", style="yellow")
    if not found["queues"]:
        say("no stage leaves jobs, and there are none")
        return
    headers = ["queue", *(name.replace("_", " ") for name in _COLUMNS), "oldest"]
    in_redis = transport["kind"] == "redis"
    show_table(
        [*headers, "hints"] if in_redis else headers,
        [
            [
                row["name"],
                *(row[name] for name in _COLUMNS),
                _age(row["oldest_seconds"]),
                *(["?" if row["hints"] is None else row["hints"]] if in_redis else []),
            ]
            for row in found["queues"]
        ],
        fold=("queue",),
        drop=("completed", "scheduled", "failed", "oldest"),
    )
    if transport["problem"]:
        where = transport["url"]
        told = f"{where}: {transport['problem']}; jobs wait in the database until it answers"
        say(told if where else f"no hints are shown: {transport['problem']}", style="yellow")


def _age(seconds: float | None) -> str:
    """``12s``, ``3m``, ``5h``, ``2d``."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
