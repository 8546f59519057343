"""A local handler with an effect that can be counted: a line in a file; on one key it waits for a file to appear."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from pipeline import Context, Event, Handler, Setup, hookimpl


class EffectOptions(BaseModel):
    """Where the lines go, and what blocks.

    Attributes:
        file: Gets the id of each event, a line each.
        blocked_key: Events whose ``data.key`` is this wait; empty for none.
        until: The file that they wait for.
        seconds: How long each event takes beside.
    """

    model_config = ConfigDict(extra="forbid")

    file: Path
    blocked_key: str = ""
    until: Path = Path()
    seconds: float = 0.0


class Effect(Handler[EffectOptions]):
    """Writes the event's id, at once and in one call, so that a crash leaves whole lines."""

    name = "effect"
    Options: ClassVar[type[BaseModel]] = EffectOptions

    async def start(self, setup: Setup) -> None:
        """Open the file."""
        self._file = os.open(self.options.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(self, event: Event[Any], context: Context) -> None:
        """Wait where the key is blocked, then leave the effect."""
        while event.data.get("key") == self.options.blocked_key and not self.options.until.exists():
            await asyncio.sleep(0.05)
        if self.options.seconds:
            await asyncio.sleep(self.options.seconds)
        os.write(self._file, f"{event.id}\n".encode())


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``effect``."""
    return [Effect]
