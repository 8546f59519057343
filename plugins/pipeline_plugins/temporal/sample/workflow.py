"""The sample workflow: pauses, resumes and ends when it is told to, and tells a repeated signal from a new one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from temporalio import workflow

__all__ = ["Memory", "SampleWorkflow"]

REMEMBERED = 1_000
"""How many event ids are remembered; far more than can be in flight at once."""

_log = logging.getLogger("pipeline.sample")


@dataclass
class Memory:
    """What the workflow knows, and takes along when it continues as new.

    Attributes:
        status: ``running``, ``paused`` or ``cancelled``.
        applied: How many signals took effect, repeats left out.
        repeated: How many signals were repeats.
        seen: The event ids of the last signals, oldest first.
    """

    status: str = "running"
    applied: int = 0
    repeated: int = 0
    seen: list[str] = field(default_factory=list)


@workflow.defn(name="SampleWorkflow")
class SampleWorkflow:
    """Waits until it is cancelled.

    The server applies a signal once per run and request id. A signal that is sent again after the workflow continued
    as new reaches a new run, so it is applied again, unless the workflow itself recognises it: each signal here takes
    the event's id (``signal_args = ["id"]`` in ``[stage.workflow-control]``), and the ids are carried over from run to
    run. A second argument is a reason, for the log.
    """

    @workflow.init
    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory or Memory()
        self._renewing = False

    @workflow.run
    async def run(self, memory: Memory | None = None) -> str:
        """Wait; continue as new when the history grows long. Returns the last status."""
        await workflow.wait_condition(lambda: self._ended() or self._long())
        if not self._ended():
            workflow.continue_as_new(self._memory)
        return self._memory.status

    @workflow.signal
    def pause(self, event_id: str | None = None, reason: str | None = None) -> None:
        """Pause the work."""
        self._apply("paused", event_id, reason)

    @workflow.signal
    def resume(self, event_id: str | None = None, reason: str | None = None) -> None:
        """Go on with the work."""
        self._apply("running", event_id, reason)

    @workflow.signal
    def cancel(self, event_id: str | None = None, reason: str | None = None) -> None:
        """End the work, and the workflow."""
        self._apply("cancelled", event_id, reason)

    @workflow.signal
    def renew(self) -> None:
        """Continue as new, as a long history makes it."""
        self._renewing = True

    @workflow.query
    def status(self) -> str:
        """``running``, ``paused`` or ``cancelled``."""
        return self._memory.status

    @workflow.query
    def applied(self) -> int:
        """How many signals took effect, repeats left out."""
        return self._memory.applied

    @workflow.query
    def memory(self) -> Memory:
        """All that the workflow knows."""
        return self._memory

    def _apply(self, status: str, event_id: str | None, reason: str | None) -> None:
        memory = self._memory
        if event_id is not None:
            if event_id in memory.seen:
                memory.repeated += 1
                return
            memory.seen.append(event_id)
            del memory.seen[:-REMEMBERED]
        memory.status = status
        memory.applied += 1
        if not workflow.unsafe.is_replaying():
            _log.info("%s is %s%s", workflow.info().workflow_id, status, f": {reason}" if reason else "")

    def _ended(self) -> bool:
        return self._memory.status == "cancelled"

    def _long(self) -> bool:
        return self._renewing or workflow.info().is_continue_as_new_suggested()
