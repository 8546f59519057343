"""The handler of the no-op route: it reads one field of the data, and that is all."""

from __future__ import annotations

from typing import Any

from pipeline import Event, handler


@handler("noop")
async def noop(event: Event[Any]) -> None:
    """Read a field."""
    _ = event.data["workflow_id"]
