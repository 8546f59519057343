"""The handler ``log``: prints each event on one line, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from pipeline import Context, Delivery, Event, Handler, Setup, hookimpl

__all__ = ["LogHandler", "LogOptions", "pipeline_handlers"]


class LogOptions(BaseModel):
    """``[stage.log]``: how an event is printed, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["line", "json"] = Field("line", description="'line' for people, 'json' for programs.")
    prefix: str = Field("", description="A text at the beginning of each line.")
    level: Literal["debug", "info", "warning", "error"] | None = Field(
        None, description="Log the lines at this level; without it they go to standard output."
    )


class LogHandler(Handler[LogOptions]):
    """Prints time, routing key, id and data of each event; as a ``finally`` stage also what became of it."""

    name = "log"
    Options: ClassVar[type[BaseModel]] = LogOptions

    async def start(self, setup: Setup) -> None:
        """Keep the stage's logger."""
        self._log = setup.log
        self._format = _json if self.options.format == "json" else _line

    async def handle_batch(self, batch: Sequence[Delivery]) -> None:
        """Print all of them at once."""
        lines = [self.options.prefix + self._format(event, context) for event, context in batch]
        if self.options.level is None:
            _print(lines)
            return
        level = logging.getLevelNamesMapping()[self.options.level.upper()]
        for line in lines:
            self._log.log(level, "%s", line)


def _line(event: Event[Any], context: Context) -> str:
    time = event.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    words = [time, _word(event.routing_key), f"id={_word(event.id)}", _text(event.data)]
    if context.outcome is not None:
        words.append(f"-> {context.outcome}" + (f": {_word(str(context.error))}" if context.error is not None else ""))
    return " ".join(words)


def _json(event: Event[Any], context: Context) -> str:
    shown: dict[str, Any] = {
        "time": event.time,
        "routing_key": event.routing_key,
        "id": event.id,
        "source": event.source,
        "headers": dict(event.headers),
        "data": event.data,
    }
    if context.outcome is not None:
        shown["outcome"] = str(context.outcome)
        shown["error"] = None if context.error is None else str(context.error)
    return _text(shown)


def _text(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z).decode()
    except TypeError:  # an integer of more than 64 bits, or half of a surrogate pair
        return json.dumps(value, default=str, separators=(",", ":"))


def _word(text: str) -> str:
    """The text, quoted where it holds what would break the line or steer the terminal, or is empty."""
    return text if text and text.isprintable() else _text(text)


def _print(lines: Sequence[str]) -> None:
    """Write to standard output; whoever reads it may have gone, which is no reason to fail an event."""
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        logging.getLogger(__name__).debug("nobody reads the standard output any more")


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``log``."""
    return [LogHandler]
