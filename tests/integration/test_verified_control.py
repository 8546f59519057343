"""Verified control on a real Temporal: a whole pipeline signals, looks whether it took effect, and audits both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import Client

from pipeline import Pipeline
from pipeline.connectors import Outgoing
from pipeline_handlers.audit.tables import AuditLog
from pipeline_plugins.temporal.sample.worker import sample_worker
from pipeline_plugins.temporal.sample.workflow import SampleWorkflow
from tests.handlers.eventually import eventually

FILE = """
[resource.temporal]
timeout = "1s"

[source.admin]
stream = "admin"
group = "control"

[[route]]
match = "admin.workflow.*"
key = ["data.workflow_id", "data.prefix"]
stages = ["workflow-control"]

[stage.workflow-control]
signal_args = ["id"]
user_id = "data.admin_id"

[stage.workflow-control.verify]
pause = { by = "query", name = "status", equals = "paused", timeout = "1s" }
cancel = { by = "status", equals = ["COMPLETED", "CANCELED"] }

[stage.workflow-control.batch]
query = "WorkflowId STARTS_WITH '{{ data.prefix }}.' AND ExecutionStatus = 'Running'"
"""


class Control:
    """A running pipeline, its stream, and the rows that it leaves."""

    def __init__(self, pipeline: Pipeline, client: Client, queue: str) -> None:
        self.pipeline = pipeline
        self.client = client
        self.queue = queue

    async def begin(self, *workflow_ids: str, queue: str = "") -> None:
        for name in workflow_ids:
            await self.client.start_workflow(SampleWorkflow.run, id=name, task_queue=queue or self.queue)

    async def publish(self, kind: str, event_id: str, **data: Any) -> None:
        body = json.dumps({"admin_id": "me", **data}).encode()
        await self.pipeline.connector.publish("admin", [Outgoing(body, f"admin.workflow.{kind}", event_id)])

    async def rows(self, count: int, event_id: str) -> list[Any]:
        """The rows of an event, once there are so many."""
        found: list[Any] = []

        async def enough() -> bool:
            async with self.pipeline.database.read() as connection:
                query = select(AuditLog.__table__).where(AuditLog.event_id == event_id).order_by(AuditLog.entity_id)  # type: ignore[attr-defined,arg-type]
                found[:] = (await connection.execute(query)).all()
            return len(found) >= count

        await eventually(enough)
        return found

    async def signalled(self, workflow_id: str) -> list[float]:
        """When the workflow got its signals, as its history says, in seconds."""
        history = self.client.get_workflow_handle(workflow_id).fetch_history_events()
        return [
            event.event_time.ToNanoseconds() / 1e9
            async for event in history
            if event.HasField("workflow_execution_signaled_event_attributes")
        ]

    async def applied(self, workflow_id: str) -> int:
        return await self.client.get_workflow_handle(workflow_id).query(SampleWorkflow.applied)


@pytest.fixture
async def control(tmp_path: Path, temporal_address: str, stream_name: str) -> AsyncIterator[Control]:
    file = tmp_path / "pipeline.toml"
    file.write_text(FILE)
    environ = {
        "PIPELINE_BROKER_URL": f"memory://{stream_name}",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'pipeline.db'}",
        "TEMPORAL_HOST": temporal_address,
    }
    client = await Client.connect(temporal_address)
    async with sample_worker(client, stream_name), Pipeline.from_file(file, environ=environ) as pipeline:
        yield Control(pipeline, client, stream_name)


async def test_a_pause_is_audited_as_confirmed_with_both_times(control: Control, stream_name: str) -> None:
    await control.begin(stream_name)
    await control.publish("paused", "event-1", workflow_id=stream_name)
    [row] = await control.rows(1, "event-1")
    assert (row.action, row.entity_id, row.user_id) == ("workflow_signal_confirmed", stream_name, "me")
    details = row.metadata
    assert details["seen"] == "paused"
    assert datetime.fromisoformat(details["requested_at"]) <= datetime.fromisoformat(details["effective_at"])


async def test_what_does_not_take_effect_in_time_is_audited_as_not_confirmed(
    control: Control, stream_name: str
) -> None:
    await control.begin(stream_name, queue=f"{stream_name}.nobody")
    await control.publish("paused", "event-1", workflow_id=stream_name)
    [row] = await control.rows(1, "event-1")
    assert row.action == "workflow_signal_not_confirmed"
    assert (
        row.notes
        == "not confirmed within 1 s: no worker answers the query 'status': there is none, or its workflow tasks fail"
    )


async def test_a_signal_that_another_one_undid_before_it_was_seen_is_audited_as_superseded(
    control: Control, stream_name: str
) -> None:
    await control.begin(stream_name, queue=f"{stream_name}.nobody")
    await control.publish("cancelled", "event-1", workflow_id=stream_name)
    await control.publish("paused", "event-2", workflow_ids=[stream_name])
    [row] = await control.rows(1, "event-1")
    assert row.action == "workflow_signal_superseded"
    assert row.metadata["superseded_by"]["signal"] == "pause"
    assert row.metadata["seen"] == "RUNNING"


async def test_no_workflow_gets_five_signals_within_a_second_whatever_names_it(
    control: Control, stream_name: str
) -> None:
    hot, *others = names = [f"{stream_name}.{number}" for number in range(5)]
    await control.begin(*names, queue=f"{stream_name}.nobody")
    for number in range(3):
        await control.publish("resumed", f"list-{number}", workflow_ids=[*others, hot])
        await control.publish("resumed", f"hot-{number}", workflow_id=hot)
        await control.publish("resumed", f"pair-{number}", workflow_ids=[hot, others[number]])

    async def all_signalled() -> bool:
        return [len(await control.signalled(name)) for name in names] == [9, 4, 4, 4, 3]

    await eventually(all_signalled)
    for name in names:
        at = await control.signalled(name)
        assert all(later - earlier > 1.0 for earlier, later in zip(at, at[4:], strict=False))


async def test_a_list_is_signalled_and_each_workflow_is_looked_at(control: Control, stream_name: str) -> None:
    names = [f"{stream_name}.{number}" for number in range(20)]
    await control.begin(*names)
    await control.publish("cancelled", "event-1", workflow_ids=names)
    rows = await control.rows(len(names) + 1, "event-1")
    [sent] = [row for row in rows if row.action == "workflow_signals_sent"]
    assert set(sent.metadata["workflows"].values()) == {"sent"}
    confirmed = [row for row in rows if row.action == "workflow_signal_confirmed"]
    assert sorted(row.entity_id or "" for row in confirmed) == sorted(names)
    assert {row.metadata["seen"] for row in confirmed} == {"COMPLETED"}


async def test_queries_are_carried_out_once_and_one_after_the_other(control: Control, stream_name: str) -> None:
    names = [f"{stream_name}.{number}" for number in range(10)]
    await control.begin(*names)

    async def visible() -> bool:
        count = await control.client.count_workflows(f"WorkflowId STARTS_WITH '{stream_name}.'")
        return count.count == len(names)

    await eventually(visible)
    events = {f"{stream_name}.1": "paused", f"{stream_name}.2": "resumed"}  # their ids name the batch operations
    for event_id, kind in events.items():
        await control.publish(kind, event_id, prefix=stream_name)
    for event_id in events:
        [row] = await control.rows(1, event_id)
        assert (row.action, row.notes) == ("workflow_batch_completed", None)
        details = row.metadata
        assert (details["total"], details["complete"], details["failed"]) == (10, 10, 0)

    async def all_applied() -> bool:
        return all([await control.applied(name) >= 2 for name in names])

    await eventually(all_applied)
    assert [await control.applied(name) for name in names] == [2] * len(names)
