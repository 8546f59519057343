"""``pipeline run``: run a pipeline until it is told to stop, and say what it does."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.files import DEFAULT, FileArgument, find
from pipeline.cli.leaving import FINE, LeaveNow
from pipeline.cli.running import LogFormatOption, QuietOption, Run, VerboseOption, until_complete

if TYPE_CHECKING:
    from pipeline.runner import Pipeline

__all__ = ["run"]

_STATUS_SECONDS = 1.0
_log = logging.getLogger("pipeline.run")


def run(
    file: FileArgument = DEFAULT,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Leave jobs to 'pipeline worker'.")] = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = 0,
    log_format: LogFormatOption = "text",
) -> None:
    """Run a pipeline, and the jobs that it leaves, until Ctrl-C or SIGTERM.

    What is in flight then finishes, within [pipeline] grace; a second Ctrl-C ends it at once. Logs and
    status go to standard error; standard output is the handlers'.
    """
    from pipeline import logs

    logs.configure(verbose - quiet, log_format)
    find(file)
    from pipeline.runner import Pipeline

    pipeline = Pipeline.from_file(file, worker=not no_worker)
    for warning in pipeline.loaded.warnings:
        _log.warning("%s", warning)
    talk = log_format == "text" and quiet == 0
    raise LeaveNow(until_complete(_PipelineRun(pipeline, talk=talk).run()))


class _PipelineRun(Run):
    """One run of a pipeline.

    Args:
        pipeline: The pipeline, not started yet.
        talk: Tell people what happens; else everything goes to the log.
    """

    def __init__(self, pipeline: Pipeline, *, talk: bool) -> None:
        super().__init__(pipeline, pipeline.config.pipeline.grace)
        self._pipeline = pipeline
        self._talk = talk

    def in_flight(self) -> int:
        """Messages and jobs in flight."""
        messages = sum(source.in_flight for source in self._pipeline.stats().sources.values())
        return messages + (self._pipeline.jobs.in_flight if self._pipeline.jobs else 0)

    def tell_started(self) -> None:
        """The banner."""
        from pipeline.cli.banner import banner

        if not self._talk:
            _log.info("pipeline %s is running", self._pipeline.config.pipeline.name)
            return
        from pipeline.cli.console import say

        for line, style in banner(self._pipeline):
            say(line, style=style, stderr=True)

    async def tell_status(self) -> None:
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

    def tell_end(self, seconds: float, status: int) -> None:
        """The totals; nothing where it never got to work."""
        stats = self._pipeline.stats()
        if not stats.messages_processed and status != FINE:
            return
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
