"""Revocations meet decisions, follow-ups and other streams: what came later in the world counts, not what ran first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline import Event, Reject, Unavailable
from pipeline.ledger.job_tables import JobRow, OutboxMessage
from pipeline_handlers.governance.steering import Steering
from pipeline_handlers.governance.tables import Approval, Entity, Task, WorkflowExecution
from tests.handlers.governance.engine_rig import QUEUE, Rig, rig_on
from tests.handlers.governance.kit import an_event, entity_event, status_event

Make = Callable[..., Awaitable[Rig]]
APPROVE = {"use": "approval", "approvers": ["ciso"], "timeout": "1d"}
PUBLISH = {"use": "change_status", "to": "published"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return f"sqlite:///{tmp_path}/test.db" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(*actions: dict[str, Any], **keys: Any) -> Rig:
            made = await stack.enter_async_context(rig_on(url, actions))
            made.define(actions, **{"cancel_on": ["revoked", "deleted"], **keys})
            return made

        yield rig


def at(event: Event, time: int, offset: int, stream: str = "stream.gov") -> Event:
    event.timestamp, event.offset, event.stream = time, offset, stream
    return event


CREATED = at(entity_event("created", id="e-1", new={"status": "draft"}), 1000, 1)


def revoked(time: int = 2000, offset: int = 2, **more: Any) -> Event:
    return at(status_event("draft", "revoked", id="e-2"), time, offset, **more)


async def waiting(rig: Rig) -> str:
    await rig.feed(CREATED)
    await rig.run()
    [execution] = await rig.rows(WorkflowExecution)
    assert execution.phase == "waiting"
    return str(execution.id)


async def test_a_grant_that_comes_before_the_job_of_a_revocation_is_refused_and_publishes_nothing(make: Make) -> None:
    rig = await make(APPROVE, PUBLISH)
    id_ = await waiting(rig)
    await rig.feed(revoked())
    with pytest.raises(Reject, match="policy/p-1 became revoked") as refused:
        await rig.approvals.decide(id_, "ciso", "granted", request_id="e-3")
    assert refused.value.kind == "approval_closed"
    assert await rig.state(id_) == ("failed", "cancelled")
    assert (await rig.execution(id_)).error == "cancelled: policy/p-1 became revoked"
    assert [row.status for row in await rig.rows(Approval)] == ["cancelled"]
    assert (await rig.audited(id_))[-2:] == ["execution_cancelled", "approval_refused"]
    await rig.run()
    assert [entity.status for entity in await rig.rows(Entity)] == ["revoked"]
    assert (await rig.audited(id_)).count("execution_cancelled") == 1


@pytest.mark.parametrize("end", ["revoked", "deleted"])
async def test_a_job_that_runs_before_the_one_of_a_revocation_does_nothing_more(make: Make, end: str) -> None:
    rig = await make(APPROVE, PUBLISH)
    id_ = await waiting(rig)
    await rig.approvals.decide(id_, "ciso", "granted", request_id="e-3")
    await rig.feed(revoked() if end == "revoked" else at(entity_event("deleted", id="e-2"), 2000, 2))
    await rig.executor.run(QUEUE, [f"execute:{id_}"])  # the queue hands this one out first
    assert await rig.state(id_) == ("failed", "cancelled")
    assert (await rig.execution(id_)).error == f"cancelled: policy/p-1 became {end}"
    assert await rig.rows(OutboxMessage) == []
    await rig.run()
    assert await rig.rows(JobRow) == []
    assert (await rig.audited(id_)).count("execution_cancelled") == 1


async def test_a_time_out_that_would_approve_does_not_after_a_revocation(make: Make) -> None:
    rig = await make({**APPROVE, "on_timeout": "approve"}, PUBLISH)
    id_ = await waiting(rig)
    await rig.feed(revoked())
    [timer] = [job.id for job in await rig.rows(JobRow) if job.id.startswith("timeout")]
    rig.now = rig.now.replace(month=3)
    await rig.executor.run(QUEUE, [timer])
    assert await rig.state(id_) == ("failed", "cancelled")
    assert await rig.rows(OutboxMessage) == []


async def test_a_workflow_that_began_after_the_revocation_goes_on(make: Make) -> None:
    rig = await make({"use": "create_task", "title": "x"}, trigger="on_update")
    await rig.feed(CREATED, revoked(), at(entity_event("updated", id="e-3", new={"title": "x"}), 3000, 3))
    await rig.feed(at(entity_event("updated", id="e-4", new={"title": "y"}), 4000, 4))  # not what made it revoked
    await rig.run()
    assert len(await rig.rows(Task)) == 2


async def test_what_a_workflow_itself_does_to_its_entity_does_not_cancel_it(make: Make) -> None:
    rig = await make({"use": "change_status", "to": "revoked"}, APPROVE, {"use": "create_task", "title": "x"})
    id_ = await waiting(rig)
    [message] = await rig.rows(OutboxMessage)
    follow_up = an_event(message.routing_key, orjson.loads(bytes(message.body)), id=message.message_id)
    await rig.feed(at(follow_up, 2_000_000_000_000, 9))
    await rig.run()
    await rig.approvals.decide(id_, "ciso", "granted", request_id="e-3")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)


async def test_a_stream_that_was_made_anew_counts_from_0_and_cancels_all_the_same(make: Make) -> None:
    rig = await make(APPROVE)
    await rig.feed(at(entity_event("created", id="e-1", new={"status": "draft"}), 1000, 5000))
    await rig.run()
    await rig.feed(revoked(2000, 3))
    await rig.run()
    assert [(row.status, row.phase) for row in await rig.rows(WorkflowExecution)] == [("failed", "cancelled")]


async def test_an_event_of_another_stream_of_the_entity_cancels_too(make: Make) -> None:
    rig = await make(APPROVE)
    await waiting(rig)
    await rig.feed(revoked(2000, 0, stream="stream.other"))
    await rig.run()
    assert [row.phase for row in await rig.rows(WorkflowExecution)] == ["cancelled"]


async def test_of_one_millisecond_the_places_in_the_stream_tell_what_was_first(make: Make) -> None:
    rig = await make(APPROVE, trigger="on_status_change")
    events = [status_event(old, new, id=f"e-{new}") for old, new in (("", "draft"), ("draft", "revoked"))]
    again = status_event("revoked", "draft", id="e-again")
    await rig.feed(*[at(event, 1000, offset) for offset, event in enumerate([*events, again])])
    await rig.run()
    found = {row.event_id: row.phase for row in await rig.rows(WorkflowExecution)}
    assert found == {"e-draft": "cancelled", "e-revoked": "waiting", "e-again": "waiting"}


async def test_a_follow_up_that_comes_late_puts_no_status_back_that_changed_meanwhile(make: Make) -> None:
    rig = await make(PUBLISH)
    await rig.feed(CREATED)
    await rig.run()
    [message] = await rig.rows(OutboxMessage)
    await rig.feed(at(status_event("published", "revoked", id="e-2"), 2000, 2))
    body = orjson.loads(bytes(message.body))
    await rig.feed(at(an_event(message.routing_key, body, id=message.message_id), 3000, 3))
    [entity] = await rig.rows(Entity)
    assert (entity.status, entity.data["status"], entity.event_id) == ("revoked", "revoked", "e-2")


async def test_many_follow_ups_in_one_commit_are_told_apart_by_whose_they_are(make: Make) -> None:
    rig = await make(PUBLISH)
    await rig.trigger(8)
    await rig.run()
    told = [(one.message_id, orjson.loads(bytes(one.body))) for one in await rig.rows(OutboxMessage)]
    late = 2_000_000_000_000
    await rig.feed_together(*[
        at(status_event("published", "revoked", id=f"r-{number}", entity_id=body["entity_id"]), late, number)
        for number, (_, body) in enumerate(told[:4])
    ])  # fmt: skip
    theirs = {"workflow": "theirs", "entity": "policy/p-9", "execution_id": "0" * 36}
    await rig.feed(at(entity_event("created", id="e-9", entity_id="p-9", new={"status": "draft"}), 1000, 1))
    await rig.feed_together(*[
        *(at(an_event("governance.policy.status_changed", body, id=id_), late + 1, 9) for id_, body in told),
        at(status_event("draft", "archived", id=f"{'0' * 36}/0", entity_id="p-9", causation=[theirs]), late + 1, 10),
    ])  # fmt: skip
    found = {entity.entity_id: entity.status for entity in await rig.rows(Entity)}
    again = {body["entity_id"] for _, body in told[:4]}
    assert {found[id_] for id_ in again} == {"revoked"}
    assert found["p-9"] == "archived"
    assert [status for id_, status in found.items() if id_ not in again and id_ != "p-9"] == ["published"] * 4


async def test_a_follow_up_makes_an_entity_known_and_one_of_another_pipeline_is_news(make: Make) -> None:
    rig = await make(PUBLISH)
    cause = {"workflow": "theirs", "entity": "policy/p-1", "execution_id": "0" * 36}
    told = [
        at(status_event(old, new, id=f"{'0' * 36}/{number}", causation=[cause]), 1000 + number, number)
        for number, (old, new) in enumerate([("draft", "published"), ("published", "archived")])
    ]
    await rig.feed(*told)
    assert [entity.status for entity in await rig.rows(Entity)] == ["archived"]


async def test_a_follow_up_triggers_other_workflows(make: Make) -> None:
    rig = await make(PUBLISH)
    await rig.feed(CREATED)
    await rig.run()
    [message] = await rig.rows(OutboxMessage)
    rig.define([APPROVE], name="second", trigger="on_status_change", to="published")
    body = orjson.loads(bytes(message.body))
    await rig.feed(at(an_event(message.routing_key, body, id=message.message_id), 3000, 3))
    assert {row.workflow for row in await rig.rows(WorkflowExecution)} == {"review", "second"}


async def test_what_the_database_breaks_off_for_a_deadlock_is_done_once_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make(APPROVE)
    id_ = await waiting(rig)
    change, broken = Steering.change, [Unavailable("database", "deadlock detected")]

    def once(self: Steering) -> Any:
        if broken:
            raise broken.pop()
        return change(self)

    monkeypatch.setattr(Steering, "change", once)
    assert (await rig.approvals.decide(id_, "ciso", "granted", request_id="r")).status == "granted"
    broken += [Unavailable("database", "deadlock detected")]
    assert await rig.executions.cancel(id_) is True
    broken += [Unavailable("database", "no answer")]
    with pytest.raises(Unavailable, match="no answer"):
        await rig.executions.cancel(id_)
