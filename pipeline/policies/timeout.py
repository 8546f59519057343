"""Timeout: ends the tries that take too long, with one timer for all of a stage's workers.

`asyncio.timeout` sets and cancels a timer per call, which costs more than a short handler itself. Here a worker only
notes when its try must be over, and one timer looks through the notes a few times within each period.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.policies.middleware import Call

if TYPE_CHECKING:
    from pipeline.handlers import Delivery

__all__ = ["Timeout"]

_LOOKS_PER_PERIOD = 10
_log = logging.getLogger("pipeline.dispatch")


class Timeout:
    """The time limit of one stage.

    Args:
        seconds: How long one try may take; None for no limit. It is ended at most a tenth of that later. One that goes
            on for as long again, as its handler catches its cancellation, is told in the log: nothing else can end it.
        stage: The stage's name, for the log.
    """

    def __init__(self, seconds: float | None, stage: str = "") -> None:
        self.seconds = seconds
        self._stage = stage
        self._due: dict[asyncio.Task[Any], float] = {}
        self._expired: dict[asyncio.Task[Any], bool] = {}  # whether it was told that it goes on nevertheless
        self._timer: asyncio.TimerHandle | None = None

    def wrap(self, call: Call) -> Call:
        """The call, with this limit; what it raises beside is as in `run`."""
        loop = asyncio.get_running_loop()

        async def timed(batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - calls are made in tasks
            results: Sequence[BaseException | None] | None = await self.run(call(batch), task, loop)
            return results

        return timed

    async def run(self, call: Awaitable[Any], task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> Any:
        """Await the call, in the current task.

        Raises:
            TimeoutError: It took too long, and was cancelled.
        """
        if self.seconds is None:
            return await call
        self._due[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds / _LOOKS_PER_PERIOD, self._look, loop)
        try:
            return await call
        except asyncio.CancelledError as error:
            if task in self._expired:
                del self._expired[task]
                if task.uncancel() == 0:
                    raise TimeoutError(f"took longer than {self.seconds:g} s").with_traceback(
                        error.__traceback__  # which tells what it waited for
                    ) from None
            raise
        finally:
            del self._due[task]
            if task in self._expired:  # the call answered its cancellation with something else
                del self._expired[task]
                task.uncancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.seconds is not None  # noqa: S101 - no timer is set without a limit
        now = loop.time()
        for task, due in self._due.items():
            if due <= now and task not in self._expired:
                self._expired[task] = False
                task.cancel()
            elif due + self.seconds <= now and not self._expired[task]:
                self._expired[task] = True
                _log.warning(
                    "stage %s: a try of at most %g s has gone on for twice as long, and holds its worker: its handler "
                    "catches its own cancellation (let asyncio.CancelledError pass)", self._stage, self.seconds,
                )  # fmt: skip
        # With no try under way the timer rests; the next try sets it again.
        again = bool(self._due)
        self._timer = loop.call_later(self.seconds / _LOOKS_PER_PERIOD, self._look, loop) if again else None

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
