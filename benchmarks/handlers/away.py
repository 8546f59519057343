"""The handler of the isolation benchmark's other source: what it needs is always down."""

from __future__ import annotations

from typing import Any

from pipeline import Event, Unavailable, handler


@handler("away")
async def away(event: Event[Any]) -> None:
    """Say so."""
    raise Unavailable("crm", "it is being mended")
