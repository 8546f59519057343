"""Temporal as the workflow-control handler sees it, in memory; it passes the same contract as the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pipeline import Reject, Unavailable


class FakeTemporal:
    """Workflows that note what signals they get.

    Attributes:
        workflows: What each workflow saw: pairs of signal and arguments.
        completed: The workflows that have ended.
        down: Whether every call fails as in an outage.
        gate: Calls wait here until it is set.
        in_flight: How many calls wait at the gate.
        most_in_flight: The highest number that `in_flight` ever reached.
        calls: Workflow ids in the order of the calls.
    """

    def __init__(self, *workflow_ids: str) -> None:
        self.workflows: dict[str, list[tuple[str, tuple[Any, ...]]]] = {name: [] for name in workflow_ids}
        self.completed: set[str] = set()
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.in_flight = 0
        self.most_in_flight = 0
        self.calls: list[str] = []
        self._requests: set[tuple[str, str]] = set()

    async def signal(
        self, workflow_id: str, signal: str, *, request_id: str, args: Sequence[Any] = (), run_id: str | None = None
    ) -> None:
        self.calls.append(workflow_id)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.in_flight -= 1
        if self.down:
            raise Unavailable("temporal", "it is switched off")
        if workflow_id not in self.workflows or run_id not in (None, "run"):
            raise Reject(f"there is no workflow {workflow_id!r}", kind="workflow_not_found")
        if (workflow_id, request_id) in self._requests:
            return
        if workflow_id in self.completed:
            raise Reject(f"workflow {workflow_id!r} has already completed", kind="workflow_completed")
        self._requests.add((workflow_id, request_id))
        self.workflows[workflow_id].append((signal, tuple(args)))
