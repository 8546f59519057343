"""workflow-control on a real Temporal: what each workflow saw, in its history."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from pipeline import Delivery, Handler, Reject, Unavailable
from pipeline_handlers.workflow_control import WorkflowControlHandler
from pipeline_plugins.temporal import TemporalResource
from pipeline_plugins.temporal.options import TemporalOptions
from tests.handlers.eventually import eventually
from tests.handlers.harness import deliver, hand, reference_event, started
from tests.services import Temporal, start_temporal


class CountedResource(TemporalResource):
    """Counts the signals that it is asked for."""

    calls = 0

    async def signal(self, *args: Any, **named: Any) -> None:
        self.calls += 1
        await super().signal(*args, **named)


@asynccontextmanager
async def control(
    address: str, resource: TemporalResource | None = None, **options: Any
) -> AsyncIterator[Handler[Any]]:
    resource = resource or TemporalResource(TemporalOptions(address=address))
    await resource.start()
    try:
        async with started(WorkflowControlHandler, options, temporal=resource) as handler:
            yield handler
    finally:
        await resource.stop()


@pytest.fixture
async def client(temporal_address: str) -> Client:
    return await Client.connect(temporal_address)


async def begin(client: Client, *workflow_ids: str) -> None:
    """Start workflows that no worker serves: what they were sent stands in their history."""
    queue = secrets.token_hex(6)
    await asyncio.gather(*(client.start_workflow("Untended", id=name, task_queue=queue) for name in workflow_ids))


async def signals(client: Client, workflow_id: str) -> list[tuple[str, list[Any]]]:
    """The signals in the workflow's history, with their arguments."""
    found = []
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        if event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            found.append((signal.signal_name, await client.data_converter.decode(signal.input.payloads)))
    return found


@pytest.mark.parametrize(("kind", "signal"), [("paused", "pause"), ("resumed", "resume"), ("cancelled", "cancel")])
async def test_the_references_event_sends_its_signal(
    client: Client, temporal_address: str, stream_name: str, kind: str, signal: str
) -> None:
    await begin(client, stream_name)
    async with control(temporal_address) as handler:
        assert await hand(handler, deliver(reference_event(kind, workflow_id=stream_name))) == [None]
    assert await signals(client, stream_name) == [(signal, [])]


async def test_an_event_that_comes_three_times_is_applied_once(
    client: Client, temporal_address: str, stream_name: str
) -> None:
    await begin(client, stream_name)
    for _ in range(3):  # a runner each time, as after a crash between signal and commit
        async with control(temporal_address) as handler:
            assert await hand(handler, deliver(reference_event(workflow_id=stream_name))) == [None]
    assert len(await signals(client, stream_name)) == 1


async def test_unknown_and_completed_workflows_are_rejected_and_the_others_are_signalled(
    client: Client, temporal_address: str, stream_name: str
) -> None:
    done = f"{stream_name}.done"
    await begin(client, stream_name, done)
    await client.get_workflow_handle(done).terminate()
    names = [f"{stream_name}.unknown", done, stream_name]
    async with control(temporal_address) as handler:
        found = await hand(handler, *(deliver(reference_event(id=name, workflow_id=name)) for name in names))
    assert [error.kind if isinstance(error, Reject) else error for error in found] == [
        "workflow_not_found",
        "workflow_completed",
        None,
    ]
    assert await signals(client, stream_name) == [("pause", [])]


async def test_many_signals_reach_many_workflows_each_in_order(
    client: Client, temporal_address: str, stream_name: str
) -> None:
    names = [f"{stream_name}.{number}" for number in range(50)]
    await begin(client, *names)
    batch: list[Delivery] = [
        deliver(reference_event("paused" if turn % 2 == 0 else "resumed", id=f"{name}/{turn}", workflow_id=name))
        for turn in range(4)
        for name in names
    ]
    async with control(temporal_address, signal_args=["id"]) as handler:
        halves = await asyncio.gather(hand(handler, *batch[:120]), hand(handler, *batch[120:]))
    assert [*halves[0], *halves[1]] == [None] * 200
    for name in names:
        expected = [("pause" if turn % 2 == 0 else "resume", [f"{name}/{turn}"]) for turn in range(4)]
        assert await signals(client, name) == expected


async def test_an_outage_ends_a_large_batch_soon_and_it_goes_through_afterwards(
    own_server: Callable[[Callable[[Path], Temporal]], Temporal],
) -> None:
    def start_durable_temporal(folder: Path) -> Temporal:
        return start_temporal(folder, durable=True)

    server = own_server(start_durable_temporal)
    names = [f"w{number}" for number in range(120)]
    await begin(await Client.connect(server.address), *names)
    batch = [deliver(reference_event(id=name, workflow_id=name)) for name in names]
    resource = CountedResource(TemporalOptions(address=server.address))
    async with control(server.address, resource, in_flight=50) as handler:
        assert await hand(handler, batch[0]) == [None]
        await asyncio.to_thread(server.kill)
        found = await hand(handler, *batch)
        assert all(isinstance(error, Unavailable) for error in found)
        assert resource.calls <= 1 + 50  # those that were on their way together met it, and no other waited for that
        await asyncio.to_thread(server.restart)

        async def all_sent() -> bool:
            return not any(await hand(handler, *batch))

        await eventually(all_sent)
    again = await Client.connect(server.address)
    for name in names:
        assert len(await signals(again, name)) == 1
