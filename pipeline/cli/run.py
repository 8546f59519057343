"""``pipeline run``: run a pipeline until it is told to stop, and say what it does."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli.files import DEFAULT, FileArgument, find
from pipeline.cli.leaving import FAILED, FINE, INTERRUPTED, MISTAKE, LeaveNow, leave

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pipeline.runner import Pipeline

__all__ = ["run"]

_STATUS_SECONDS = 1.0
_log = logging.getLogger("pipeline.run")


def run(
    file: FileArgument = DEFAULT,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Log more; twice, all.")
    ] = 0,
    quiet: Annotated[
        int, typer.Option("--quiet", "-q", count=True, show_default=False, help="Log warnings only; twice, errors.")
    ] = 0,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How log lines look.")] = "text",
) -> None:
    """Run a pipeline until Ctrl-C or SIGTERM.

    What is in flight then finishes, within [pipeline] grace; a second Ctrl-C ends it at once. Logs and
    status go to standard error; standard output is the handlers'.
    """
    from pipeline import logs

    logs.configure(verbose - quiet, log_format)
    find(file)
    from pipeline.runner import Pipeline

    pipeline = Pipeline.from_file(file)
    for warning in pipeline.loaded.warnings:
        _log.warning("%s", warning)
    talk = log_format == "text" and quiet == 0
    raise LeaveNow(_until_complete(_Run(pipeline, talk=talk).run()))


class _Run:
    """One run of a pipeline, under signals.

    Args:
        pipeline: The pipeline, not started yet.
        talk: Tell people what happens; else everything goes to the log.
    """

    def __init__(self, pipeline: Pipeline, *, talk: bool) -> None:
        self._pipeline = pipeline
        self._talk = talk
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Start, wait for the end, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        began = time.monotonic()
        status = await self._run()
        if self._pipeline.stats().messages_processed or status == FINE:
            self._tell_totals(time.monotonic() - began)
        return status

    async def _run(self) -> int:
        from pipeline.cli.console import explain
        from pipeline.errors import PipelineError, UserError

        try:
            self._starting = asyncio.create_task(self._pipeline.start())
            await self._starting
            self._settle()
            self._tell_started()
            status = asyncio.create_task(self._tell_status())
            await self._pipeline.wait()
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
        if self._stopping is not None or (self._starting is not None and self._starting.cancelling()):
            if number == signal.SIGINT:
                leave(INTERRUPTED)
            return
        if self._starting is None or not self._starting.done():
            if self._starting is not None:
                self._starting.cancel()
            return
        in_flight = sum(source.in_flight for source in self._pipeline.stats().sources.values())
        name = signal.Signals(number).name
        _log.info("%s: stopping; %d in flight, grace %g s", name, in_flight, self._pipeline.config.pipeline.grace)
        self._stopping = asyncio.create_task(self._pipeline.stop())

    @staticmethod
    def _settle() -> None:
        """What is alive now stays alive: leave it out of collections, and collect less often."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    # Telling

    def _tell_started(self) -> None:
        from pipeline.cli.banner import banner

        if not self._talk:
            _log.info("pipeline %s is running", self._pipeline.config.pipeline.name)
            return
        from pipeline.cli.console import say

        for line, style in banner(self._pipeline):
            say(line, style=style, stderr=True)

    async def _tell_status(self) -> None:
        """On a terminal, at most once a second, what was done since the start."""
        from pipeline.cli.console import say

        if not self._talk or not sys.stderr.isatty():
            return
        told = ""
        while True:
            await asyncio.sleep(_STATUS_SECONDS)
            status = _outcomes(self._pipeline)
            if status and status != told:
                say(f"  {status}", style="dim", stderr=True)
                told = status

    def _tell_totals(self, seconds: float) -> None:
        stats = self._pipeline.stats()
        _log.info(
            "stopped after %.0f s: %d processed%s",
            seconds,
            stats.messages_processed,
            f" ({outcomes})" if (outcomes := _outcomes(self._pipeline)) else "",
            extra={
                "messages_processed": stats.messages_processed,
                "messages_succeeded": stats.messages_succeeded,
                "messages_failed": stats.messages_failed,
            },
        )


def _outcomes(pipeline: Pipeline) -> str:
    """``42 handled, 1 dead``; empty where nothing happened."""
    totals: dict[str, int] = {}
    for source in pipeline.stats().sources.values():
        for outcome, number in source.outcomes.items():
            totals[str(outcome)] = totals.get(str(outcome), 0) + number
    order = ("handled", "filtered", "duplicate", "dead")
    return ", ".join(f"{totals[name]:,} {name}" for name in order if totals.get(name))


def _until_complete(work: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where there is one. The loop stays open: the process ends next, and all is drained by then."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new_loop
    return new_loop().run_until_complete(work)
