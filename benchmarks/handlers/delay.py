"""The handler of the latency route: it notes how long each event was under way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import orjson
from pydantic import BaseModel

from pipeline import Context, Event, Handler, Setup, hookimpl


class DelayOptions(BaseModel):
    """``[stage.delay]``."""

    file: Path


class DelayHandler(Handler[DelayOptions]):
    """Keeps, per event, the milliseconds since its field ``sent``; writes them to a file when it stops."""

    name = "delay"
    Options: ClassVar[type[BaseModel]] = DelayOptions

    async def start(self, setup: Setup) -> None:
        """Begin with none."""
        self._delays: list[float] = []

    async def handle(self, event: Event[Any], context: Context) -> None:
        """Note the event's delay; the clock is the same in all processes of a machine."""
        self._delays.append((time.monotonic_ns() - event.data["sent"]) / 1e6)

    async def stop(self) -> None:
        """Write what was noted."""
        self.options.file.write_bytes(orjson.dumps(self._delays))


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``delay``."""
    return [DelayHandler]
