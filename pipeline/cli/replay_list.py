"""``pipeline replay --list`` and ``--forget``: the replays that the ledger knows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pipeline.cli.console import count, iso, say, show_json, show_table

if TYPE_CHECKING:
    from pipeline.cli.files import Opened
    from pipeline.ledger.replays import ReplayRecord

__all__ = ["forget_replay", "list_replays"]


def list_replays(opened: Opened, *, as_json: bool) -> None:
    """Print the replays of a pipeline, the newest first."""
    from pipeline.replay.book import known_replays

    found = [_described(record) for record in asyncio.run(known_replays(opened.loaded))]
    if as_json:
        show_json({"replays": found})
        return
    if found:
        columns = ("name", "source", "from", "to", "routes", "only", "offsets", "state", "done", "dead", "started_at")
        least = ("only", "to", "from", "routes", "source", "started_at", "offsets")
        show_table(columns, [[_cell(row[name]) for name in columns] for row in found], fold=("routes",), drop=least)
    say(count(len(found), "replay"))


def forget_replay(opened: Opened, name: str, source: str | None) -> None:
    """Remove a replay's progress."""
    from pipeline.replay.book import forget_replay as forget

    asyncio.run(forget(opened.loaded, name, source))
    say(f"forgot replay {name}; its dead letters stay", style="green")


def _described(record: ReplayRecord) -> dict[str, Any]:
    from pipeline.replay.book import state_of
    from pipeline.replay.planning import finished_in, progress_of

    row, progress = record.row, record.progress
    total = row.last - row.first + 1
    done = total if row.finished_at else finished_in(row.first, row.last, progress_of(record))
    return {
        "name": row.name,
        "source": row.source,
        "group": row.group,
        "stream": row.stream,
        "from": row.asked.get("from"),
        "to": row.asked.get("to"),
        "routes": row.asked.get("routes"),
        "only": row.asked.get("only"),
        "offsets": [row.first, row.last],
        "state": state_of(record),
        "done": done,
        "total": total,
        "dead": progress.dead if progress is not None else 0,
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }


def _cell(value: Any) -> object:
    if isinstance(value, list):
        value = "–".join(map(str, value)) if value and isinstance(value[0], int) else ", ".join(value)
    return "-" if value in (None, "") else value
