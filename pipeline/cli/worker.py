"""``pipeline worker``: run the jobs that runners leave on queues, until it is told to stop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.files import DEFAULT, FileArgument, find
from pipeline.cli.leaving import FINE, LeaveNow
from pipeline.cli.running import LogFormatOption, QuietOption, Run, VerboseOption, until_complete

if TYPE_CHECKING:
    from pipeline.worker import Worker

__all__ = ["worker"]

_log = logging.getLogger("pipeline.run")


def worker(
    file: FileArgument = DEFAULT,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", metavar="NAME", help="Serve only this queue; may be repeated.")
    ] = None,
    verbose: VerboseOption = 0,
    quiet: QuietOption = 0,
    log_format: LogFormatOption = "text",
) -> None:
    """Run the jobs of a pipeline's queues until Ctrl-C or SIGTERM; as many workers as you like, on any host.

    What is in flight then finishes, within [pipeline] grace; a second Ctrl-C ends it at once.
    """
    from pipeline import logs

    logs.configure(verbose - quiet, log_format)
    find(file)
    from pipeline.worker import Worker

    made = Worker.from_file(file, queues=queue)
    for warning in made.loaded.warnings:
        _log.warning("%s", warning)
    raise LeaveNow(until_complete(_WorkerRun(made, talk=log_format == "text" and quiet == 0).run()))


class _WorkerRun(Run):
    """One run of a worker.

    Args:
        worker: The worker, not started yet.
        talk: Tell people what happens; else everything goes to the log.
    """

    def __init__(self, worker: Worker, *, talk: bool) -> None:
        super().__init__(worker, worker.config.pipeline.grace)
        self._worker = worker
        self._talk = talk

    def in_flight(self) -> int:
        """Jobs in flight."""
        return self._worker.in_flight

    def tell_started(self) -> None:
        """The banner."""
        from pipeline.cli.banner import worker_banner

        name = self._worker.config.pipeline.name
        if not self._talk:
            serves = self._worker.jobs.serves if self._worker.jobs else ()
            _log.info("a worker of pipeline %s is running, for %s", name, ", ".join(serves) or "no queue yet")
            return
        from pipeline.cli.console import say

        for line, style in worker_banner(self._worker):
            say(line, style=style, stderr=True)

    def tell_end(self, seconds: float, status: int) -> None:
        """How long it ran; nothing where it never got to work."""
        if status == FINE:
            _log.info("stopped after %.0f s", seconds)
