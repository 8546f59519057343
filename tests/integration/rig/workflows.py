"""Workflows on a real Temporal: what was sent to each stands in its history, however often it was sent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from temporalio.client import Client

from pipeline_plugins.temporal.sample.worker import sample_worker
from pipeline_plugins.temporal.sample.workflow import Memory, SampleWorkflow

__all__ = ["Seen", "Workflows"]

ResultT = TypeVar("ResultT")

_AT_ONCE = 50


class Seen(NamedTuple):
    """A signal in a workflow's history."""

    name: str
    event_id: str


class Workflows:
    """Sample workflows of one test; no worker serves them until `memories` is asked for.

    Args:
        client: A connected client.
        ids: Their ids.
    """

    def __init__(self, client: Client, ids: Sequence[str]) -> None:
        self._client = client
        self._queue = f"rig-{secrets.token_hex(6)}"
        self.ids = ids

    async def start(self) -> None:
        """Start them all."""
        await _gather(
            self._client.start_workflow(SampleWorkflow.run, id=name, task_queue=self._queue) for name in self.ids
        )

    async def histories(self) -> dict[str, list[Seen]]:
        """The signals in each one's history, oldest first: the server's own truth."""
        found = await _gather(self._history(name) for name in self.ids)
        return dict(zip(self.ids, found, strict=True))

    async def memories(self) -> dict[str, Memory]:
        """What each one made of its signals, once a worker has served them."""
        async with sample_worker(self._client, self._queue):
            found = await _gather(
                self._client.get_workflow_handle(name).query(SampleWorkflow.memory) for name in self.ids
            )
        return dict(zip(self.ids, found, strict=True))

    async def terminate(self) -> None:
        """End them all."""
        await _gather(self._client.get_workflow_handle(name).terminate() for name in self.ids)

    async def _history(self, name: str) -> list[Seen]:
        seen = []
        async for event in self._client.get_workflow_handle(name).fetch_history_events():
            if event.HasField("workflow_execution_signaled_event_attributes"):
                signal = event.workflow_execution_signaled_event_attributes
                [event_id] = await self._client.data_converter.decode(signal.input.payloads)
                seen.append(Seen(signal.signal_name, event_id))
        return seen


async def _gather(calls: Iterable[Awaitable[ResultT]]) -> list[ResultT]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Awaitable[ResultT]) -> ResultT:
        async with slots:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))
