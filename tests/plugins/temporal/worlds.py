"""Where the contracts of the Temporal resource are kept: the tests' fake in memory, and a real server."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from temporalio.client import Client

from pipeline_handlers.workflow_control import Batches, Signaller, Watcher
from pipeline_plugins.temporal import TemporalResource
from pipeline_plugins.temporal.options import TemporalOptions
from pipeline_plugins.temporal.sample.worker import sample_worker
from pipeline_plugins.temporal.sample.workflow import Memory, SampleWorkflow
from tests.handlers.fake_temporal import FakeTemporal


class Contract(Signaller, Watcher, Batches, Protocol):
    """All that workflow-control may ask for."""


class World(ABC):
    """A resource, and the means to make workflows and to look into them."""

    resource: Contract

    @abstractmethod
    async def begin(self, workflow_id: str) -> None: ...

    @abstractmethod
    async def finish(self, workflow_id: str) -> None: ...

    @abstractmethod
    async def applied(self, workflow_id: str) -> int: ...

    @abstractmethod
    async def begin_unserved(self, workflow_id: str) -> None:
        """Start a workflow that has no worker."""


class FakeWorld(World):
    def __init__(self) -> None:
        self.resource = self.fake = FakeTemporal()

    async def begin(self, workflow_id: str) -> None:
        self.fake.workflows[workflow_id] = []

    async def finish(self, workflow_id: str) -> None:
        self.fake.completed[workflow_id] = "TERMINATED"

    async def applied(self, workflow_id: str) -> int:
        return len(self.fake.workflows[workflow_id])

    async def begin_unserved(self, workflow_id: str) -> None:
        await self.begin(workflow_id)
        self.fake.asleep.add(workflow_id)


class RealWorld(World):
    def __init__(self, resource: TemporalResource, client: Client, task_queue: str) -> None:
        self.resource = resource
        self._client = client
        self._task_queue = task_queue

    async def begin(self, workflow_id: str) -> None:
        await self._client.start_workflow(SampleWorkflow.run, id=workflow_id, task_queue=self._task_queue)

    async def finish(self, workflow_id: str) -> None:
        await self._client.get_workflow_handle(workflow_id).terminate()

    async def applied(self, workflow_id: str) -> int:
        return await self._client.get_workflow_handle(workflow_id).query(SampleWorkflow.applied)

    async def begin_unserved(self, workflow_id: str) -> None:
        await self._client.start_workflow("Untended", id=workflow_id, task_queue=f"{self._task_queue}.nobody")

    async def run_of(self, workflow_id: str) -> str | None:
        return (await self._client.get_workflow_handle(workflow_id).describe()).run_id

    async def memory(self, workflow_id: str) -> Memory:
        return await self._client.get_workflow_handle(workflow_id).query(SampleWorkflow.memory)


@asynccontextmanager
async def real_world(address: str) -> AsyncIterator[RealWorld]:
    resource = TemporalResource(TemporalOptions(address=address, timeout=2.0))
    await resource.start()
    client = await resource.client()
    task_queue = f"contract-{secrets.token_hex(6)}"
    async with sample_worker(client, task_queue):
        yield RealWorld(resource, client, task_queue)
    await resource.stop()
