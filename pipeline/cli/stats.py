"""``pipeline stats``: what the running runners do, from the heartbeats that they write."""

from __future__ import annotations

import asyncio
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


def stats(
    config: ConfigOption = DEFAULT,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them anew each second, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the running runners do, source by source.

    Exits 1 if no runner runs, or one is not healthy.
    """
    loaded = open_file(config).loaded
    status = asyncio.run(_watch(loaded, as_json=as_json) if watch else _once(loaded, as_json=as_json))
    raise typer.Exit(status)


async def _once(loaded: Loaded, *, as_json: bool) -> int:
    from pipeline.cli.console import show_json

    found = await _collect(loaded)
    if as_json:
        show_json(found)
    else:
        _show(found)
    return FINE if found["instances"] and all(one["is_healthy"] for one in found["instances"]) else FAILED


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
    """The instances that are alive, as JSON values."""
    from pipeline.ledger.database import Database
    from pipeline.ledger.instances import Instances

    database = Database(loaded.config.database.url or "")
    try:
        alive = await Instances(database).alive()
    finally:
        await database.close()
    instances = [_described(one) for one in alive if one.pipeline == loaded.config.pipeline.name]
    await _add_lags(loaded, instances)
    return {"pipeline": loaded.config.pipeline.name, "instances": instances}


def _described(one: Instance) -> dict[str, Any]:
    from pipeline.cli.console import iso

    return {
        "instance": one.id,
        "host": one.host,
        "pid": one.pid,
        "started_at": iso(one.started_at),
        "beat_at": iso(one.beat_at),
        **one.stats,
    }


async def _add_lags(loaded: Loaded, instances: list[dict[str, Any]]) -> None:
    """To each running source, how many messages lie between its progress and the stream's end; None if unknown."""
    from pipeline.errors import PipelineError

    sources = [(name, source) for one in instances for name, source in one.get("sources", {}).items()]
    for _, source in sources:
        source["lag"] = None
    if not sources:
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
    from pipeline.cli.console import say, show_table

    if not found["instances"]:
        say(f"no runner of pipeline {found['pipeline']!r} gave a sign of life in the last seconds", style="yellow")
        return
    for one in found["instances"]:
        health = "healthy" if one["is_healthy"] else "NOT healthy"
        say(f"{one['host']} pid {one['pid']}, since {one['started_at']}: {health}", style="bold")
        names = ("running", "messages_processed", "messages_succeeded", "messages_failed", "last_message_time")
        for name in (*names, "last_error"):
            say(f"  {name:<20} {one.get(name)}")
        show_table(
            ("source", "state", "why", "handled", "filtered", "duplicate", "dead", "in flight", "prefix", "lag"),
            [
                (
                    name,
                    source["state"],
                    source["reason"] or "-",
                    *(source["outcomes"].get(outcome, 0) for outcome in ("handled", "filtered", "duplicate", "dead")),
                    source["in_flight"],
                    source["prefix"],
                    "?" if source["lag"] is None else source["lag"],
                )
                for name, source in one["sources"].items()
            ],
        )
