"""Logging for programs that run a pipeline: one line a record, for people or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

__all__ = ["Format", "JsonFormatter", "TextFormatter", "configure", "level_for", "printable"]

Format = Literal["text", "json"]

_COLOURS: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# What steers a terminal: the control characters but tab and newline, and those of Unicode's second block.
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
_ONE_LINE: Final = _CONTROL | {10: "\\n"}


def printable(text: str) -> str:
    """The text with control characters spelled out, so that what an event holds can't steer the terminal."""
    return text if text.isprintable() else text.translate(_CONTROL)


class TextFormatter(logging.Formatter):
    """``12:30:59.123 INFO  message``, in local time; a traceback follows on lines of its own.

    Args:
        colours: Mark warnings and errors with colours.
        names: Show each record's logger.
    """

    def __init__(self, *, colours: bool = False, names: bool = False) -> None:
        super().__init__()
        self._colours = colours
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = f"{record.levelname:<7}"
        if self._colours and (colour := _COLOURS.get(record.levelname)):
            level = f"\x1b[{colour}m{level}\x1b[0m"
        name = f"{record.name}: " if self._names else ""
        line = f"{time}.{record.msecs:03.0f} {level} {name}{record.getMessage().translate(_ONE_LINE)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info).translate(_CONTROL)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the record's extra fields, and the error if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def level_for(verbosity: int) -> int:
    """The level for so many ``-v`` (positive) or ``-q`` (negative)."""
    if verbosity > 0:
        return logging.DEBUG
    return {0: logging.INFO, -1: logging.WARNING}.get(verbosity, logging.ERROR)


def configure(verbosity: int = 0, format: Format = "text", stream: TextIO | None = None) -> None:  # noqa: A002
    """Send all logging to a stream, in place of whatever was set up before.

    The runner's own loggers (``pipeline.…``, plugins included) follow `verbosity`; other libraries are heard from
    warnings on, and with two ``-v`` from debugging on.

    Args:
        verbosity: 0 for information, 1 for debugging, -1 for warnings, -2 for errors only.
        format: ``text`` for people, ``json`` for programs.
        stream: Where to write; by default standard error.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(
            TextFormatter(colours=stream.isatty() and not os.environ.get("NO_COLOR"), names=verbosity > 0)
        )
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity > 1 else max(logging.WARNING, level_for(verbosity)))
    logging.getLogger("pipeline").setLevel(level_for(verbosity))
    logging.captureWarnings(capture=True)
