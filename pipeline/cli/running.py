"""A runner or a worker as a command: under signals, from its start to its exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from pipeline.cli.leaving import FAILED, FINE, INTERRUPTED, MISTAKE, leave

if TYPE_CHECKING:
    from pipeline.life import Life

__all__ = ["LogFormatOption", "QuietOption", "Run", "VerboseOption", "until_complete"]

VerboseOption: TypeAlias = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Log more; twice, all.")
]
QuietOption: TypeAlias = Annotated[
    int, typer.Option("--quiet", "-q", count=True, show_default=False, help="Log warnings only; twice, errors.")
]
LogFormatOption: TypeAlias = Annotated[Literal["text", "json"], typer.Option(help="How log lines look.")]

_log = logging.getLogger("pipeline.run")


class Run(ABC):
    """One run of something that is started and stopped once.

    Args:
        life: What is run, not started yet.
        grace: Seconds that work in flight has to finish.
    """

    def __init__(self, life: Life, grace: float) -> None:
        self._life = life
        self._grace = grace
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._told_to_stop = False

    @abstractmethod
    def in_flight(self) -> int:
        """How much is in flight now."""

    @abstractmethod
    def tell_started(self) -> None:
        """Say that it runs, and what it does."""

    async def tell_status(self) -> None:  # noqa: B027 - most have nothing to say
        """Say from time to time what was done, until cancelled; by default nothing."""

    def tell_end(self, seconds: float, status: int) -> None:
        """Say at the end what was done."""
        _log.info("stopped after %.0f s", seconds)

    async def run(self) -> int:
        """Start, wait for the end, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        began = time.monotonic()
        status = await self._run()
        self.tell_end(time.monotonic() - began, status)
        return status

    async def _run(self) -> int:
        from pipeline.cli.console import explain
        from pipeline.errors import PipelineError, UserError

        try:
            self._starting = asyncio.create_task(self._life.start())
            await self._starting
            if self._told_to_stop:  # and what it was at meanwhile swallowed the cancellation: it is started
                await self._life.stop()
                return FINE
            _settle()
            self.tell_started()
            status = asyncio.create_task(self.tell_status())
            await self._life.wait()
            status.cancel()
        except asyncio.CancelledError:
            return FINE  # told to stop while it was starting
        except UserError as error:
            explain(error)
            return MISTAKE
        except PipelineError as error:
            explain(error)
            return FAILED
        except Exception:  # noqa: BLE001 - what is not ours to expect is shown whole, and the process still ends well
            _log.exception("the runner failed; this is a bug in it, or in a plugin")
            return FAILED
        return FINE

    def _on_signal(self, number: int) -> None:
        """The first signal stops in good order; Ctrl-C while that goes on ends the process at once."""
        if self._told_to_stop:
            if number == signal.SIGINT:
                leave(INTERRUPTED)
            return
        # A note of our own: that the start is being cancelled would not tell, for a time-out within it does that, too.
        self._told_to_stop = True
        if self._starting is None or not self._starting.done():
            if self._starting is not None:
                self._starting.cancel()
            return
        name = signal.Signals(number).name
        _log.info("%s: stopping; %d in flight, grace %g s", name, self.in_flight(), self._grace)
        self._stopping = asyncio.create_task(self._life.stop())


def _settle() -> None:
    """What is alive now stays alive: leave it out of collections, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def until_complete(work: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where there is one. The loop stays open: the process ends next, and all is drained by then."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new_loop
    return new_loop().run_until_complete(work)
