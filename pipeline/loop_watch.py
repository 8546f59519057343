"""Notices when the event loop stands still because something in it blocks, and says for how long, and where."""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Final

__all__ = ["LoopWatch"]

_LIMIT: Final = 1.0
_LOOKS: Final = 4
"""How often within the limit the loop shows that it lives, and a thread looks whether it does."""
_LIBRARIES: Final = tuple({str(Path(path)) for path in sysconfig.get_paths().values()})
_log = logging.getLogger("pipeline.runner")


class LoopWatch:
    """Watches the loop that `run` runs on.

    While a handler blocks the loop nothing else goes on in the process: no other event, no heartbeat, no lease. A
    thread looks on, and can tell that from a process that was stopped as a whole.

    Args:
        limit: Seconds after which it is told.

    Attributes:
        longest: For how many seconds the loop was blocked, at most.
    """

    def __init__(self, limit: float = _LIMIT) -> None:
        self.longest = 0.0
        self._limit = limit
        self._step = limit / _LOOKS
        self._beat = self._look = 0.0
        self._stood = 0.0  # how long the thread, too, did not get to run since the loop's last beat
        self._where = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        self._beat = self._look = monotonic()
        end = threading.Event()
        looking = threading.Thread(
            target=self._look_on, args=(threading.get_ident(), end), name="loop watch", daemon=True
        )
        looking.start()
        try:
            while True:
                await asyncio.sleep(self._step)
                self._live()
        finally:
            end.set()

    def _live(self) -> None:
        """The loop's side: how long is it since the last time?"""
        now = monotonic()
        late = now - self._beat - self._step
        stood = self._stood + max(0.0, now - self._look - self._step)
        where, self._where = self._where, ""
        self._beat, self._stood = now, 0.0
        if late < self._limit:
            return
        blocked = late - stood
        if blocked < self._limit:
            _log.info("the process stood still for %.1f s: it was stopped, or the machine was busy with others", late)
            return
        self.longest = max(self.longest, blocked)
        _log.warning(
            "the event loop was blocked for %.1f s%s: a handler calls something that blocks, and all else waited; "
            "let it await, or use asyncio.to_thread",
            blocked, where and f" at {where}",
        )  # fmt: skip

    def _look_on(self, loop_thread: int, end: threading.Event) -> None:
        """The thread's side: while the loop stands still, see where."""
        while not end.wait(self._step):
            now = monotonic()
            if (late := now - self._look - self._step) > self._step:
                self._stood += late
            self._look = now
            if not self._where and now - self._beat - self._stood > self._limit / 2 + self._step:
                self._where = _place(sys._current_frames().get(loop_thread))


def _place(frame: FrameType | None) -> str:
    """``file:line in function`` of the innermost call that is not a library's; else of the innermost."""
    innermost = frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_LIBRARIES) and Path(frame.f_code.co_filename).is_absolute():
            break
        frame = frame.f_back
    frame = frame or innermost
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
