"""``pipeline stats``: what the running runners and workers do, from the heartbeats that they write."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, open_file
from pipeline.cli.leaving import FAILED, FINE

if TYPE_CHECKING:
    from pipeline.config.load import Loaded
    from pipeline.connectors import Connector
    from pipeline.ledger.tables import Instance

__all__ = ["stats"]

_WATCH_SECONDS = 1.0
_LAG_SECONDS = 2.0
_GONE_AFTER = 3.0
"""Seconds after its last sign of life that a process counts as gone; it gives one each second."""
_OUTBOX_SECONDS = 5.0
"""From how many seconds on it is told that a message waits to be published."""
_SHOWN_FOR = 60.0
"""Seconds that one is shown which went without taking leave."""


def stats(
    config: ConfigOption = DEFAULT,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them anew each second, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the running runners and workers do, and how they are.

    Exits 1 if no runner runs, or one of them is not healthy. One that gives no sign of life for 3 s
    is gone, and is shown for a minute.
    """
    loaded = open_file(config, lenient=True).loaded
    status = asyncio.run(_watch(loaded, as_json=as_json) if watch else _once(loaded, as_json=as_json))
    raise typer.Exit(status)


async def _once(loaded: Loaded, *, as_json: bool) -> int:
    from pipeline.cli.console import show_json

    found = await _collect(loaded)
    if as_json:
        show_json(found)
    else:
        _show(found)
    instances = found["instances"]
    runs = any(one["kind"] == "runner" and not one["gone"] for one in instances)
    return FINE if runs and all(one["is_healthy"] for one in instances) else FAILED


async def _watch(loaded: Loaded, *, as_json: bool) -> int:
    """Show them again and again: on a terminal in place, else one after the other, JSON on a line each."""
    import json

    from pipeline.cli.console import terminal

    console = terminal()
    while True:
        found = await _collect(loaded)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            if console is not None:
                console.clear()
            _show(found)
        await asyncio.sleep(_WATCH_SECONDS)


async def _collect(loaded: Loaded) -> dict[str, Any]:
    """The instances that are alive, or were a moment ago, as JSON values."""
    from pipeline.jobs.figures import outbox_figures
    from pipeline.ledger.database import Database
    from pipeline.ledger.instances import Instances

    database = Database(loaded.config.database.url or "")
    try:
        alive = {one.id for one in await Instances(database).alive(_GONE_AFTER)}
        seen = await Instances(database).alive(_SHOWN_FOR)
        outbox = asdict(await outbox_figures(database, loaded.config.pipeline.name))
    finally:
        await database.close()
    instances = [
        _described(one, gone=one.id not in alive) for one in seen if one.pipeline == loaded.config.pipeline.name
    ]
    await _add_lags(loaded, [one for one in instances if not one["gone"]])
    return {"pipeline": loaded.config.pipeline.name, "instances": instances, "outbox": outbox}


def _described(one: Instance, *, gone: bool) -> dict[str, Any]:
    from pipeline.cli.console import iso

    found: dict[str, Any] = {
        "kind": "runner",  # what an earlier version writes does not say
        "reason": "",
        "instance": one.id,
        "host": one.host,
        "pid": one.pid,
        "started_at": iso(one.started_at),
        "beat_at": iso(one.beat_at),
        "gone": gone,
        **one.stats,
    }
    if gone:
        found |= {"running": False, "is_healthy": False, "reason": f"no sign of life since {found['beat_at']}"}
    for source in found["sources"].values():
        source["lag"] = None
    return found


async def _add_lags(loaded: Loaded, instances: list[dict[str, Any]]) -> None:
    """To each running source, how many messages lie between its progress and the stream's end; None if unknown."""
    from pipeline.errors import PipelineError

    sources = [(name, source) for one in instances for name, source in one["sources"].items()]
    if not sources:
        return
    if any(problem.path.startswith("broker") for problem in loaded.problems):
        return
    connector = loaded.connector(loaded.config.broker.url or "")
    try:
        async with asyncio.timeout(_LAG_SECONDS):
            await connector.connect()
            for name, source in sources:
                if source.get("state") != "standby" and name in loaded.config.source:
                    source["lag"] = await _lag(connector, loaded.config.source[name].stream, source.get("prefix", -1))
    except (PipelineError, TimeoutError):
        pass  # the broker is away: the lag is unknown
    finally:
        await connector.close()


async def _lag(connector: Connector, stream: str, prefix: int) -> int:
    bounds = await connector.bounds(stream)
    if bounds.first is None or bounds.last is None:
        return 0
    return max(0, bounds.last - max(prefix, bounds.first - 1))


def _show(found: dict[str, Any]) -> None:
    from pipeline.cli.console import say

    _show_outbox(found["outbox"])
    if not found["instances"]:
        say(f"no runner of pipeline {found['pipeline']!r} gave a sign of life in the last seconds", style="yellow")
        return
    for one in found["instances"]:
        health = "GONE" if one["gone"] else "healthy" if one["is_healthy"] else "NOT healthy"
        say(f"{one['kind']} on {one['host']}, pid {one['pid']}, since {one['started_at']}: {health}", style="bold")
        names = ["running", "reason"] if one["reason"] else ["running"]
        if one["kind"] == "runner":
            names += ["messages_processed", "messages_succeeded", "messages_failed", "last_message_time", "last_error"]
        for name in (*names, "jobs_in_flight", "longest_block"):
            say(f"  {name:<20} {_cell(one.get(name))}")
        if one["gone"]:
            continue
        _show_connections(one.get("connections", {}))
        _show_sources(one["sources"])


def _show_outbox(outbox: dict[str, Any]) -> None:
    """What waits to be published for longer than it takes a broker that is well, or is never published."""
    from pipeline.cli.console import count, say

    if (outbox["oldest_seconds"] or 0.0) > _OUTBOX_SECONDS:
        streams = ", ".join(outbox["streams"])
        told = f"outbox: {count(outbox['waiting'], 'message')} for {streams} not published, the oldest for"
        say(f"{told} {outbox['oldest_seconds']:.0f} s: 'pipeline check --live' and the log may say why", style="yellow")
    if outbox["refused"]:
        told = f"outbox: {count(outbox['refused'], 'message')} never published, as the broker refuses"
        say(f"{told}: {outbox['error']}", style="yellow")


def _show_connections(connections: dict[str, dict[str, Any]]) -> None:
    from pipeline.cli.console import show_table

    rows = [(name, each["state"], each["since"], each["reason"] or "-") for name, each in connections.items()]
    show_table(("connection", "state", "since", "why"), rows, fold=("why",), drop=("since",))


def _show_sources(sources: dict[str, dict[str, Any]]) -> None:
    from pipeline.cli.console import show_table

    if not sources:
        return
    outcomes = ("handled", "filtered", "duplicate", "dead")
    show_table(
        ("source", "state", "why", *outcomes, "in flight", "prefix", "lost", "lag"),
        [
            (
                name,
                source["state"],
                source["reason"] or "-",
                *(source["outcomes"].get(outcome, 0) for outcome in outcomes),
                source["in_flight"],
                source["prefix"],
                source.get("lost_to_retention", 0),
                "?" if source["lag"] is None else source["lag"],
            )
            for name, source in sources.items()
        ],
        fold=("why",),
        drop=("prefix", "duplicate", "lost", "filtered", "in flight", "handled"),
    )


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else value
