"""The worker that runs the sample workflow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from pipeline_plugins.temporal.sample.workflow import SampleWorkflow

__all__ = ["TASK_QUEUE", "WORKFLOW_ID", "Sample", "sample_worker"]

TASK_QUEUE = "pipeline-sample"
"""The task queue that the worker serves."""

WORKFLOW_ID = "sample-workflow"
"""The id of the workflow that is started where no other is named."""

_log = logging.getLogger("pipeline.sample")


def sample_worker(client: Client, task_queue: str = TASK_QUEUE) -> Worker:
    """A worker for the sample workflow, to be used with ``async with``."""
    # The workflow's parent packages import the runner: passed through, they are not loaded anew for each workflow.
    restrictions = SandboxRestrictions.default.with_passthrough_modules("pipeline", "pipeline_plugins")
    runner = SandboxedWorkflowRunner(restrictions=restrictions)
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[SampleWorkflow],
        workflow_runner=runner,
        # Its deadlock detector would interrupt a workflow that takes two seconds for a step, as any may on a busy
        # machine, and may do so within a log record: its lock then stays taken, and with it the whole process.
        debug_mode=True,
        build_id="sample",  # the default is a hash of all loaded modules' code, which takes seconds
    )


class Sample:
    """Running sample workflows, and the worker that serves them.

    Args:
        client: A connected client.
        workflow_ids: The workflows; each is started unless it runs already.
        task_queue: The worker's task queue.
    """

    def __init__(
        self, client: Client, workflow_ids: Sequence[str] = (WORKFLOW_ID,), task_queue: str = TASK_QUEUE
    ) -> None:
        self._client = client
        self.workflow_ids = workflow_ids
        self._task_queue = task_queue
        self._running: asyncio.Task[None] | None = None
        self._worker = sample_worker(client, task_queue)

    async def start(self) -> None:
        """Start the workflows and the worker."""
        for workflow_id in self.workflow_ids:
            await self._client.start_workflow(
                SampleWorkflow.run,
                id=workflow_id,
                task_queue=self._task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        self._running = asyncio.create_task(self._worker.run(), name="sample-worker")
        self._running.add_done_callback(_report)
        _log.info("running: %s", ", ".join(self.workflow_ids))

    async def stop(self) -> None:
        """Stop the worker; the workflows stay, and go on when a worker comes again."""
        if self._running is not None and not self._running.done():
            await self._worker.shutdown()
            await asyncio.wait([self._running])


def _report(running: asyncio.Task[None]) -> None:
    if not running.cancelled() and (error := running.exception()) is not None:
        _log.error("the sample worker ended: %s", error)
