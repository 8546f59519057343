"""A workflow that Temporal itself has paused: what its status says, and what signals and queries meet.

Servers have this switched off by default, as ``frontend.WorkflowPauseEnabled``.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import PauseWorkflowExecutionRequest, UnpauseWorkflowExecutionRequest
from temporalio.client import Client

from pipeline_handlers.workflow_control import WorkflowControlHandler
from tests.handlers.eventually import eventually
from tests.handlers.harness import deliver, hand, reference_event, started
from tests.handlers.working import Ledger
from tests.plugins.temporal.worlds import RealWorld, real_world
from tests.services import Temporal, start_temporal


@pytest.fixture
async def world(own_server: Callable[[Callable[[Path], Temporal]], Temporal]) -> AsyncIterator[RealWorld]:
    def start_temporal_with_pauses(folder: Path) -> Temporal:
        return start_temporal(folder, settings=["frontend.WorkflowPauseEnabled=true"])

    async with real_world(own_server(start_temporal_with_pauses).address) as world:
        yield world


async def steer(client: Client, workflow_id: str, *, pause: bool) -> None:
    """Pause a workflow on the server, as an operator does by ``temporal workflow pause``, or let it go on."""
    about: dict[str, Any] = {"namespace": "default", "workflow_id": workflow_id, "identity": "operator"}
    about["request_id"] = secrets.token_hex(8)
    if pause:
        await client.workflow_service.pause_workflow_execution(PauseWorkflowExecutionRequest(**about))
    else:
        await client.workflow_service.unpause_workflow_execution(UnpauseWorkflowExecutionRequest(**about))


async def test_a_pause_by_the_server_is_confirmed_by_status_and_signals_wait_until_it_ends(world: RealWorld) -> None:
    client = await world.resource.client()
    await world.begin("w")
    before = datetime.now(UTC)
    await steer(client, "w", pause=True)
    status = await world.resource.status("w")
    assert status.value == "PAUSED"
    assert status.at is not None
    assert before <= status.at <= datetime.now(UTC)
    assert (await world.resource.query("w", "status")).reason == "the workflow is PAUSED, and answers no query"
    delivery = deliver(reference_event(workflow_id="w"))
    options = {"verify": {"pause": {"by": "status", "equals": "PAUSED"}}}
    async with started(WorkflowControlHandler, options, temporal=world.resource) as handler:
        assert await hand(handler, delivery) == [None]
        ledger = Ledger()
        await ledger.work(handler, delivery.context.jobs)
    assert ledger.told == [("workflow_signal_confirmed", "w")]
    await steer(client, "w", pause=False)

    async def applied() -> bool:
        return await world.applied("w") == 1

    await eventually(applied)
    assert await world.resource.status("w") == type(status)("RUNNING")
