"""The Python API and the commands: a program triggers workflows, and people look at them and steer them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline import Event, Reject
from pipeline.errors import UserError
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, OutboxMessage
from pipeline_handlers.governance.service import WorkflowService
from pipeline_handlers.governance.tables import Entity, Task, WorkflowExecution
from tests.pipeline.cli.support import Ran, run

FILE = """
[source.governance]
stream = "stream.governance"
group = "governance"

[[route]]
name = "govern"
match = "governance.#"
key = "data.entity_id"
stages = ["governance"]

[[stage.governance.workflow]]
name = "review"
entity = "policy"
trigger = "on_create"
actions = [
  { use = "create_task", title = "Read {{ data.entity_id }}" },
  { use = "approval", approvers = ["ciso", "cto"], mode = "all" },
]

[[stage.governance.workflow]]
name = "evidence"
entity = "evidence"
trigger = "on_create"
actions = [{ use = "create_task", title = "Check {{ data.entity_id }}" }]

[[stage.governance.workflow]]
name = "broken"
entity = "assessment"
trigger = "on_create"
actions = [{ use = "create_task", title = "{{ data.new.title }}" }]
"""
Body = Callable[[WorkflowService], Awaitable[Any]]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/test.db")
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE)
    assert run("migrate", str(path)).code == 0
    return path


def created(entity: str = "policy", id_: str = "p-1", event: str = "e-1", **new: Any) -> Event:
    data = {"entity_type": entity, "entity_id": id_, "actor_id": "ann", "old": {}, "new": new or {"status": "draft"}}
    return Event(event, f"governance.{entity}.created", data, {})


def with_service(file: Path, body: Body) -> Any:
    async def enter() -> Any:
        async with WorkflowService.from_file(file) as service:
            return await body(service)

    return asyncio.run(enter())


def rows(file: Path, table: Any) -> list[Any]:
    async def ask() -> list[Any]:
        database = Database(f"sqlite:///{file.parent}/test.db")
        try:
            return await database.fetch(table, select(table))
        finally:
            await database.close()

    return asyncio.run(ask())


def trigger(file: Path, *events: Event, use_queue: bool = False) -> list[str]:
    async def body(service: WorkflowService) -> list[str]:
        return [id_ for one in events for id_ in await service.check_and_trigger_workflows(one, use_queue)]

    found: list[str] = with_service(file, body)
    return found


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


# The commands


def test_executions_are_listed_and_chosen(file: Path) -> None:
    waiting, done = trigger(file, created(), created("evidence", "e-7", "e-2"))
    listed = run("executions", "list", "--json").json
    assert listed["total"] == 2
    assert {one["id"] for one in listed["executions"]} == {waiting, done}
    only = run("executions", "list", "--status", "in_progress", "--entity", "policy", "--json").json
    assert [(one["id"], one["phase"], one["entity"]) for one in only["executions"]] == [
        (waiting, "waiting", "policy/p-1")
    ]
    text = run("executions", "list", "--limit", "1").out
    assert "1 of 2 executions" in text
    assert run("executions", "list", "--workflow", "none").out == "0 executions\n"


def test_an_execution_is_shown_as_a_page_and_as_json(file: Path) -> None:
    [id_] = trigger(file, created())
    page = run("executions", "show", id_).out
    for words in (id_, "policy/p-1", "in_progress (waiting)", "1 of 2 actions", "Read p-1", "approval_opened", "cto"):
        assert words in page
    shown = run("executions", "show", id_, "--json").json
    assert [step["status"] for step in shown["steps"]] == ["completed", "waiting"]
    assert '"assignee": null' in page  # results are JSON


def test_approvals_are_listed_granted_and_rejected(file: Path) -> None:
    first, second = trigger(file, created(), created("policy", "p-2", "e-2"))
    listed = run("approvals", "list", "--json").json["approvals"]
    assert {one["execution_id"] for one in listed} == {first, second}
    assert run("approvals", "list", "--approver", "eve").out == "0 approvals\n"

    granted = run("approvals", "grant", first, "--as", "ciso", "--comment", "fine")
    assert granted.out == f"approval {first}/1/0: ciso granted it; it has one of two grants\n"
    again = run("approvals", "grant", first, "--as", "ciso").out
    assert again.endswith("ciso had granted it before; it has one of two grants\n")
    assert run("approvals", "grant", f"{first}/1/0", "--as", "ciso", "--json").json["repeated"] is True
    last = run("approvals", "grant", f"{first}/1/0", "--as", "cto").out
    assert last.endswith("cto granted it; the step is granted\n")
    assert run("approvals", "reject", second, "--as", "cto", "--comment", "no").code == 0
    states = {row.id: (row.status, row.error) for row in rows(file, WorkflowExecution)}
    assert states == {first: ("in_progress", None), second: ("failed", "rejected by cto: no")}
    text = run("approvals", "list", "--status", "all").out
    assert "ciso: granted, cto: granted" in text
    assert text.endswith("2 approvals\n")


def test_executions_are_cancelled_and_retried(file: Path) -> None:
    waiting, failed = trigger(file, created(), created("assessment", "a-1", "e-2"))
    assert run("executions", "cancel", waiting, "--reason", "a mistake", "--as", "ann").out == "1 execution cancelled\n"
    assert run("executions", "cancel", waiting, "--json").json == {
        "cancelled": [], "cancelled_before": [waiting], "refused": {},
    }  # fmt: skip
    assert run("executions", "retry", failed).out == "1 execution queued again\n"
    [job] = rows(file, JobRow)
    assert job.id == f"execute:{failed}"
    assert {row.id: row.phase for row in rows(file, WorkflowExecution)} == {waiting: "cancelled", failed: "queued"}


def test_of_several_executions_each_is_retried_or_cancelled_and_what_can_not_be_is_told(file: Path) -> None:
    waiting, first, second = trigger(
        file, created(), created("assessment", "a-1", "e-2"), created("assessment", "a-2", "e-3")
    )
    ran = run("executions", "retry", first, waiting, second, "x")
    assert (ran.code, ran.out) == (2, "2 executions queued again\n")
    assert "only a failed one can be retried" in ran.err
    assert "no execution 'x'" in ran.err
    assert {row.id for row in rows(file, WorkflowExecution) if row.phase == "queued"} == {first, second}
    ran = run("executions", "cancel", first, "x", waiting, "--json")
    assert ran.code == 2
    assert ran.json["cancelled"] == [first, waiting]
    assert list(ran.json["refused"]) == ["x"]


def test_before_the_first_run_there_is_nothing_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    (tmp_path / "pipeline.toml").write_text(FILE)
    assert run("executions", "list").out == "0 executions\n"
    assert run("executions", "list", "--json").json == {"total": 0, "executions": []}
    assert run("approvals", "list").out == "0 approvals\n"
    assert "there is no file" in run("executions", "show", "x").err
    assert not (tmp_path / "none.db").exists()


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


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("executions", "show", "x"), "there is no execution 'x': 'pipeline executions list' shows them"),
        (("executions", "list", "--status", "done"), "no execution's status is 'done'"),
        (("executions", "retry", "x"), "no execution 'x'"),
        (("executions", "cancel", "x"), "no execution 'x'"),
        (("approvals", "list", "--status", "pending"), "no approval is 'pending'"),
        (("approvals", "grant", "x", "--as", "ciso"), "no execution 'x'"),
        (("approvals", "grant", "x/0/0", "--as", "ciso"), "no approval 'x/0/0'"),
        (("approvals", "grant", "x"), "--as"),
    ],
)
def test_mistakes_are_named_with_exit_code_2(file: Path, command: tuple[str, ...], words: str) -> None:
    ran: Ran = run(*command)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_who_may_not_decide_is_told_so(file: Path) -> None:
    [id_] = trigger(file, created())
    ran = run("approvals", "grant", id_, "--as", "eve")
    assert ran.code == 2
    assert "'eve' is not entitled to decide on" in ran.err


def test_a_stage_that_the_file_does_not_have_is_named(file: Path) -> None:
    [id_] = trigger(file, created())
    text = file.read_text().replace("[stage.governance", "[stage.other").replace('["governance"]', '["other"]')
    file.write_text(text + '\n[stage.other]\nuse = "governance"\n')
    ran = run("approvals", "grant", id_, "--as", "ciso")
    assert ran.code == 2
    assert "the stage 'governance'" in ran.err


async def test_a_service_brings_a_sqlite_file_up_to_date_as_a_runner_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.toml").write_text(FILE)
    async with WorkflowService.from_file() as service:
        assert await service.executions.list() == []
