"""Temporal as the workflow-control handler sees it, in memory; it passes the same contract as the real one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import Reject, Unavailable

_QUERY = re.compile(r"WorkflowId STARTS_WITH '([^']*)'( AND ExecutionStatus = 'Running')?")
_STATES = {"pause": "paused", "resume": "running", "cancel": "cancelled"}


@dataclass
class Answer:
    value: Any = None
    reason: str = ""
    at: datetime | None = None


@dataclass
class Signalled:
    signal: str
    at: datetime


@dataclass
class BatchProgress:
    state: str = "running"
    total: int = 0
    complete: int = 0
    failed: int = 0
    ended_at: datetime | None = None


class FakeTemporal:
    """Workflows that note what signals they get.

    Attributes:
        workflows: What each workflow saw: pairs of signal and arguments.
        completed: The workflows that have ended, and how.
        asleep: The workflows that have no worker: they take signals, but answer no query.
        answers: What workflows answer to any query in place of their state.
        looks: Workflow ids in the order of the looks at them.
        down: Whether every call fails as in an outage.
        gate: Calls wait here until it is set.
        in_flight: How many calls wait at the gate.
        most_in_flight: The highest number that `in_flight` ever reached.
        calls: Workflow ids in the order of the calls.
        batches: Batch operations by their job ids.
        batches_end: Whether batch operations are done at once; else they run.
        most_batches: How many may run at once.
    """

    def __init__(self, *workflow_ids: str) -> None:
        self.workflows: dict[str, list[tuple[str, tuple[Any, ...]]]] = {name: [] for name in workflow_ids}
        self.completed: dict[str, str] = {}
        self.asleep: set[str] = set()
        self.answers: dict[str, Any] = {}
        self.looks: list[str] = []
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.in_flight = 0
        self.most_in_flight = 0
        self.calls: list[str] = []
        self.batches: dict[str, BatchProgress] = {}
        self.batches_end = True
        self.most_batches = 1
        self._requests: dict[tuple[str, str], int] = {}

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
        self._refuse_when_down()
        if self._is_unknown(workflow_id, run_id):
            raise Reject(f"there is no workflow {workflow_id!r}", kind="workflow_not_found")
        if (workflow_id, request_id) in self._requests:
            return
        if workflow_id in self.completed:
            raise Reject(f"workflow {workflow_id!r} has already completed", kind="workflow_completed")
        self._requests[workflow_id, request_id] = len(self.workflows[workflow_id])
        self.workflows[workflow_id].append((signal, tuple(args)))

    async def query(
        self, workflow_id: str, name: str, *, run_id: str | None = None, args: Sequence[Any] = ()
    ) -> Answer:
        self._look(workflow_id)
        if self._is_unknown(workflow_id, run_id):
            return Answer(reason=f"there is no workflow {workflow_id!r}")
        if workflow_id in self.asleep:
            return Answer(reason=f"no worker answers the query {name!r}: there is none, or its workflow tasks fail")
        if workflow_id in self.answers:
            return Answer(self.answers[workflow_id])
        if name != "status":
            return Answer(reason=f"there is no query {name!r}")
        seen = self.workflows[workflow_id]
        return Answer(_STATES[seen[-1][0]] if seen else "running")

    async def status(self, workflow_id: str, *, run_id: str | None = None) -> Answer:
        self._look(workflow_id)
        if self._is_unknown(workflow_id, run_id):
            return Answer(reason=f"there is no workflow {workflow_id!r}")
        if workflow_id in self.completed:
            return Answer(self.completed[workflow_id], at=datetime(2026, 1, 31, 12, tzinfo=UTC))
        return Answer("RUNNING")

    async def signals_after(
        self, workflow_id: str, request_id: str, *, run_id: str | None = None
    ) -> Sequence[Signalled]:
        self._refuse_when_down()
        place = self._requests.get((workflow_id, request_id))
        later = [] if place is None else self.workflows[workflow_id][place + 1 :]
        return [Signalled(signal, datetime.now(UTC)) for signal, _ in later]

    async def count(self, query: str) -> int:
        self._refuse_when_down()
        return len(self._matching(query))

    async def start_batch(
        self,
        job_id: str,
        query: str,
        operation: str,
        *,
        signal: str = "",
        args: Sequence[Any] = (),
        reason: str,
    ) -> None:
        self._refuse_when_down()
        if job_id in self.batches:
            return
        if sum(batch.state == "running" for batch in self.batches.values()) >= self.most_batches:
            raise Unavailable("temporal batch operations", "others must end first")
        found = [name for name in self._matching(query) if name not in self.completed]
        self.batches[job_id] = BatchProgress("running", len(found))
        for name in found:
            if operation == "signal":
                self.workflows[name].append((signal, tuple(args)))
            else:
                self.completed[name] = {"cancel": "CANCELED", "terminate": "TERMINATED"}[operation]
        if self.batches_end:
            self.batches[job_id] = BatchProgress("completed", len(found), len(found), 0, datetime.now(UTC))

    async def batch(self, job_id: str) -> BatchProgress:
        self._refuse_when_down()
        return self.batches.get(job_id, BatchProgress("unknown"))

    def _look(self, workflow_id: str) -> None:
        self.looks.append(workflow_id)
        self._refuse_when_down()

    def _refuse_when_down(self) -> None:
        if self.down:
            raise Unavailable("temporal", "it is switched off")

    def _is_unknown(self, workflow_id: str, run_id: str | None) -> bool:
        return workflow_id not in self.workflows or run_id not in (None, "run")

    def _matching(self, query: str) -> list[str]:
        found = _QUERY.fullmatch(query)
        if found is None:
            raise Reject(f"Temporal refuses the query: {query}", kind="invalid_argument")
        names = [name for name in self.workflows if name.startswith(found[1])]
        return [name for name in names if name not in self.completed] if found[2] else names
