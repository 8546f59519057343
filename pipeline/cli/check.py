"""``pipeline check``: is all well with the file, and with --live with what it connects to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, FileArgument, JsonOption, Opened, find, local_handlers
from pipeline.cli.leaving import FAILED, FINE, LeaveNow

if TYPE_CHECKING:
    from pipeline.check import QueueReport, Report, RouteReport
    from pipeline.cli.live import Answer

__all__ = ["check"]


def check(
    file: FileArgument = DEFAULT,
    live: Annotated[
        bool, typer.Option("--live", help="Also ask the broker, the database, the queue and each resource.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of such files, for editors, and check nothing.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show each stage's policy, and where each value came from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a pipeline's file; with --live, also its services.

    Says everything that is wrong at once; else what the pipeline does, and where each value came from. Exits 1 if
    something is wrong.
    """
    from pipeline.cli.console import show_json, show_problems

    if schema:
        show_json(_schema(file))
        return
    report, opened = _report(find(file))
    answers = asyncio.run(_ask(opened)) if live and opened else []
    fine = report.ok and all(answer.ok for answer in answers)
    if as_json:
        shown = report.as_json() | {"ok": fine}
        show_json(shown | {"live": [answer.as_json() for answer in answers]} if live else shown)
    elif report.problems:
        show_problems(report.problems)
    else:
        _show(report, explain=explain)
        _show_answers(answers)
    if answers:
        raise LeaveNow(FINE if fine else FAILED)
    raise typer.Exit(FINE if fine else FAILED)


def _schema(file: Path) -> dict[str, Any]:
    """The schema, with the options of what is installed and, where there is a file, of its local handlers."""
    from pipeline.config.schema import json_schema
    from pipeline.plugins import load_plugins

    return json_schema(load_plugins(local_handlers(file) if file.is_file() else ()).catalog())


def _report(file: Path) -> tuple[Report, Opened | None]:
    """The static report, with what is wrong with plugins first; and the opened file, where all is well."""
    from pipeline.check import Report, check
    from pipeline.config.document import read
    from pipeline.config.environment import Environment
    from pipeline.config.load import load
    from pipeline.errors import ConfigError, PluginError, Problem
    from pipeline.plugins import load_plugins

    problems: list[Problem] = []
    try:
        plugins = load_plugins(local_handlers(file))
    except ConfigError as error:  # no TOML: nothing else can be known
        return Report(str(file), error.problems), None
    except PluginError as error:
        line = read(file, Environment(os.environ)).problems.positions.line(("pipeline", "handlers"))
        problems.append(Problem(str(error), "pipeline.handlers", str(file), line))
        plugins = load_plugins()
    problems += [Problem(str(plugin.error)) for plugin in plugins.broken]
    try:
        loaded = load(file, os.environ, plugins.catalog())
    except ConfigError as error:
        problems += error.problems
    if problems:
        return Report(str(file), problems), None
    return check(loaded), Opened(loaded, plugins)


async def _ask(opened: Opened) -> list[Answer]:
    from pipeline.cli.live import ask_all

    return await ask_all(opened)


def _show(report: Report, *, explain: bool) -> None:
    from pipeline.cli.console import count, say, show_table, warn

    for route in report.routes:
        say(f"route {route.name}", style="bold")
        for line in _route(route):
            say(f"  {line}")
    if report.queues and not report.use_queue:
        say("jobs are run by the runner itself: write [jobs] to have them run by workers")
    for queue in report.queues:
        say(f"queue {queue.name}", style="bold")
        for line in _queue(queue):
            say(f"  {line}")
    if explain:
        _explain(report)
    # Without queues the settings of [jobs] say nothing.
    shown = [value for value in report.values if value.value and (report.queues or not value.path.startswith("jobs."))]
    values = [(value.path, value.value, value.origin) for value in shown]
    say()
    show_table(("value", "is", "from"), values)
    for warning in report.warnings:
        warn(str(warning))
    warnings = f", {count(len(report.warnings), 'warning')}" if report.warnings else ""
    say(f"{report.file} is fine: {count(len(report.routes), 'route')}{warnings}", style="green")


def _explain(report: Report) -> None:
    from pipeline.cli.console import say, show_table

    stages = {stage.name: stage for route in report.routes for stage in (*route.stages, *route.finally_)}
    for stage in stages.values():
        say()
        say(f"policy of {stage.name}", style="bold")
        show_table(("value", "is", "from"), [(value.path, value.value, value.origin) for value in stage.policy_values])


def _route(route: RouteReport) -> list[str]:
    lines = [f"source   {route.source}", f"match    {', '.join(route.match)}"]
    lines += [f"key      {', '.join(route.key)}"] if route.key else []
    lines += [f"when     {route.when}"] if route.when else []
    for kind, stages in (("stages", route.stages), ("finally", route.finally_)):
        for number, stage in enumerate(stages):
            name = stage.name if stage.use == stage.name else f"{stage.name} ({stage.use})"
            condition = f"; when {stage.when}" if stage.when else ""
            needs = f"; needs {', '.join(stage.resources)}" if stage.resources else ""
            jobs = f"; {'async on' if stage.is_async else 'jobs on'} {', '.join(stage.queues)}" if stage.queues else ""
            lines.append(f"{'' if number else kind:<8} {name}: {stage.policy}{condition}{needs}{jobs}")
    return lines


def _queue(queue: QueueReport) -> list[str]:
    from pipeline.check import tries

    repeated = "tried as their stages say"
    if not queue.tried_by_policy:
        repeated = tries(queue.attempts, queue.backoff, queue.max_backoff)
    lines = [f"stages   {', '.join(queue.stages)}"] if queue.stages else []
    room = f"sources pause at {queue.max_waiting:,} that wait" if queue.max_waiting else "any number may wait"
    return [
        *lines,
        f"jobs     {repeated}, {queue.concurrency} at once on each worker; {room}",
        f"keeps    {queue.keep_completed:,} completed and {queue.keep_failed:,} failed runs",
    ]


def _show_answers(answers: list[Answer]) -> None:
    from pipeline.cli.console import say

    for answer in answers:
        mark, style = ("ok  ", "green") if answer.ok else ("FAIL", "red")
        say(f"{mark}  {answer.name}: {answer.where}: {answer.message}", style=style)
