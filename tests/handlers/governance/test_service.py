"""The Python API: a program triggers workflows, looks at them and steers them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from pipeline import Event, Reject
from pipeline.errors import UserError
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, OutboxMessage
from pipeline_handlers.governance.service import WorkflowService
from pipeline_handlers.governance.tables import Entity, Task, WorkflowExecution
from tests.handlers.governance.programs import FILE, created, rows, trigger, with_service

# Triggering


def test_without_a_queue_the_actions_are_run_before_it_returns(file: Path) -> None:
    [id_] = trigger(file, created("evidence", "e-7"))
    [execution] = rows(file, WorkflowExecution)
    assert (execution.id, execution.status) == (id_, "completed")
    assert [task.title for task in rows(file, Task)] == ["Check e-7"]
    [entity] = rows(file, Entity)
    assert (entity.entity_id, entity.status, entity.version) == ("e-7", "draft", 1)
    assert entity.changed_at > 1_700_000_000_000


def test_the_same_event_again_gives_the_same_execution_and_runs_nothing_twice(file: Path) -> None:
    first = trigger(file, created("evidence", "e-7"))
    assert trigger(file, created("evidence", "e-7")) == first
    assert len(rows(file, WorkflowExecution)) == 1
    assert len(rows(file, Task)) == 1


def test_on_a_queue_it_returns_at_once_and_the_execution_can_be_run_here_later(file: Path) -> None:
    text = file.read_text() + '[jobs]\nurl = "redis://127.0.0.1:1/0"\n'
    file.write_text(text)
    [id_] = trigger(file, created("evidence", "e-7"), use_queue=True)
    assert rows(file, Task) == []
    assert [(job.id, job.queue) for job in rows(file, JobRow)] == [(f"execute:{id_}", "governance:evidence")]

    async def body(service: WorkflowService) -> tuple[str, bool]:
        assert await service.queue_workflow_execution(id_) is True  # its job is there already
        done = await service.execute_workflow_actions_for_execution(id_)
        return done.status, await service.queue_workflow_execution(id_)

    assert with_service(file, body) == ("completed", False)
    assert len(rows(file, Task)) == 1
    assert rows(file, JobRow) == []


def test_an_execution_that_fails_raises_nothing_and_holds_no_other_event_back(file: Path) -> None:
    ids = trigger(file, created("assessment", "a-1"), created("evidence", "e-7", "e-2"))
    status = {row.id: (row.status, row.error) for row in rows(file, WorkflowExecution)}
    assert status[ids[0]][0] == "failed"
    assert "title" in str(status[ids[0]][1])
    assert status[ids[1]] == ("completed", None)


def test_what_is_no_event_of_a_known_entity_is_refused(file: Path) -> None:
    with pytest.raises(Reject) as refused:
        trigger(file, created("invoice"))
    assert refused.value.kind == "unknown_entity"


def test_a_program_decides_and_steers_too(file: Path) -> None:
    [id_] = trigger(file, created())

    async def body(service: WorkflowService) -> str:
        [approval] = await service.approvals.list(status="open")
        assert approval.execution_id == id_
        for who in ("ciso", "cto"):
            await service.approvals.decide(id_, who, "granted", request_id=f"mail-{who}")
        done = await service.execute_workflow_actions_for_execution(id_)
        details = await service.executions.show(id_)
        assert len(details.decisions) == 2
        return done.status

    assert with_service(file, body) == "completed"


def test_unknown_executions_and_files_without_such_a_stage_are_named(file: Path) -> None:
    async def body(service: WorkflowService) -> None:
        with pytest.raises(UserError, match="no execution 'x'"):
            await service.queue_workflow_execution("x")
        with pytest.raises(UserError, match="no execution 'x'"):
            await service.execute_workflow_actions_for_execution("x")

    with_service(file, body)
    with pytest.raises(UserError, match="stage="):
        WorkflowService.from_file(file, stage="audit")


def test_a_program_tells_the_stream_of_what_its_workflows_change(file: Path) -> None:
    file.write_text(
        file.read_text()
        .replace('title = "Check {{ data.entity_id }}"', 'title = "x"')
        .replace('{ use = "create_task", title = "x" }', '{ use = "change_status", to = "checked" }')
    )
    trigger(file, created("evidence", "e-7"))
    [execution] = rows(file, WorkflowExecution)
    assert (execution.status, execution.event["source"]) == ("completed", "governance")
    [message] = rows(file, OutboxMessage)
    assert (message.stream, message.routing_key) == ("stream.governance", "governance.evidence.status_changed")


def test_an_event_of_a_program_cancels_what_an_earlier_one_began(file: Path) -> None:
    file.write_text(file.read_text().replace('entity = "policy"\n', 'entity = "policy"\ncancel_on = "revoked"\n'))
    data = {"entity_type": "policy", "entity_id": "p-1", "old": {"status": "draft"}, "new": {"status": "revoked"}}
    trigger(file, created(), Event("e-2", "governance.policy.status_changed", data, {}))
    [execution] = rows(file, WorkflowExecution)
    assert (execution.phase, execution.error) == ("cancelled", "cancelled: policy/p-1 became revoked")


def test_what_a_runner_of_the_same_database_has_claimed_first_is_waited_for(file: Path) -> None:
    async def body(service: WorkflowService) -> str:
        run_here, other = service._executor.run, Database(f"sqlite:///{file.parent}/test.db")

        async def taken(queue: str, ids: list[str]) -> None:
            """A runner is faster, and takes its time."""
            service._executor.run = run_here  # type: ignore[method-assign]
            async with other.write() as connection:
                until = utcnow() + timedelta(seconds=30)
                await connection.execute(update(JobRow).values(state="running", owner="runner", claimed_until=until))

            async def give_back() -> None:
                await asyncio.sleep(0.2)
                async with other.write() as connection:
                    await connection.execute(update(JobRow).values(state="queued", owner=None, claimed_until=None))
                await other.close()

            given.append(asyncio.create_task(give_back()))

        given: list[asyncio.Task[None]] = []
        service._executor.run = taken  # type: ignore[method-assign, assignment]
        [id_] = await service.check_and_trigger_workflows(created("evidence", "e-7"), False)
        await asyncio.gather(*given)
        found = await service.executions.get(id_)
        assert found is not None
        return found.status

    assert with_service(file, body) == "completed"


async def test_a_service_brings_a_sqlite_file_up_to_date_as_a_runner_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.toml").write_text(FILE)
    async with WorkflowService.from_file() as service:
        assert await service.executions.list() == []
