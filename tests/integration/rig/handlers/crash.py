"""A local handler that kills or freezes its own process at an exact point: after a signal, in a commit, behind it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import event as hooks
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from pipeline import Context, Event, Handler, Setup, hookimpl


class CrashOptions(BaseModel):
    """Where to end, once so many events have come by in this life of the process.

    Attributes:
        point: ``handled``: at that very event. ``statement``: in the next commit of events, or of what came of
            redrives, after so many statements at least.
            ``commit``: before its COMMIT. ``committing``: so many microseconds after COMMIT is on its way.
            ``committed``: when COMMIT was answered, before anyone is told.
        events: How many events come by first.
        statements: For ``statement``.
        microseconds: For ``committing``.
        freeze: Stop (SIGSTOP), once, instead of dying.
    """

    model_config = ConfigDict(extra="forbid")

    point: Literal["never", "handled", "statement", "commit", "committing", "committed"]
    events: int
    statements: int = 0
    microseconds: int = 0
    freeze: bool = False


class CrashPoint(Handler[CrashOptions]):
    """Stands behind the stage that sends signals: whoever comes by here has been signalled, and is not committed."""

    name = "crash-point"
    Options: ClassVar[type[BaseModel]] = CrashOptions

    async def start(self, setup: Setup) -> None:
        """Hook into every transaction of this process."""
        self._left = self.options.events
        hooks.listen(Engine, "begin", self._began)
        hooks.listen(Engine, "after_cursor_execute", self._executed)
        hooks.listen(Engine, "commit", self._committing)
        hooks.listen(Pool, "checkin", self._given_back)

    async def handle(self, event: Event[Any], context: Context) -> None:
        """Count down."""
        self._left -= 1
        if self._left <= 0 and self.options.point == "handled":
            self._end()

    def _began(self, connection: Any) -> None:
        connection.info["statements"] = 0
        connection.info["moves"] = connection.info["commits"] = False

    def _executed(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        info = connection.info
        info["statements"] += 1
        info["moves"] = info["moves"] or any(
            statement.startswith(f"UPDATE {table}") and column in statement
            for table, column in (("progress", "prefix="), ("dead_letters", "redrives="))  # of events, of redrives
        )
        if self._is_at("statement", info) and info["statements"] >= self.options.statements:
            self._end()

    def _committing(self, connection: Any) -> None:
        connection.info["commits"] = True
        if self._is_at("commit", connection.info):
            self._end()
        if self._is_at("committing", connection.info):
            threading.Thread(target=self._end_soon).start()

    def _given_back(self, connection: Any, record: Any) -> None:
        if record.info.get("commits") and self._is_at("committed", record.info):
            self._end()

    def _is_at(self, point: str, info: dict[str, Any]) -> bool:
        return self.options.point == point and self._left <= 0 and bool(info["moves"])

    def _end_soon(self) -> None:
        time.sleep(self.options.microseconds / 1e6)
        self._end()

    def _end(self) -> None:
        os.write(2, f"crash-point: {self.options}\n".encode())
        self._left = 1_000_000  # a frozen process will go on one day
        os.kill(os.getpid(), signal.SIGSTOP if self.options.freeze else signal.SIGKILL)


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``crash-point``."""
    return [CrashPoint]
