"""What workflow-control promises of signals that are to be confirmed: who looks, for how long, and what is audited."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Delivery, Handler, Retry, Unavailable
from pipeline.errors import PluginError
from pipeline_handlers.workflow_control import WorkflowControlHandler, followups
from tests.handlers.eventually import eventually
from tests.handlers.fake_temporal import FakeTemporal
from tests.handlers.harness import deliver, hand, make_event, reference_event, started
from tests.handlers.working import FakeSettlement, Ledger, claimed

BY_QUERY = {"by": "query", "name": "status", "equals": "paused"}


def pause(workflow_id: str = "w", **data: Any) -> Delivery:
    return deliver(make_event("admin.workflow.paused", {"workflow_id": workflow_id, **data}))


def verifying(**check: Any) -> dict[str, Any]:
    return {"verify": {"pause": {**BY_QUERY, **check}}}


async def told_after(handler: Handler[Any], *deliveries: Delivery) -> Ledger:
    """What is told of events once their jobs have run."""
    ledger = Ledger()
    assert not any(await hand(handler, *deliveries))
    await ledger.work(handler, [job for delivery in deliveries for job in delivery.context.jobs])
    return ledger


async def test_a_job_sees_that_a_pause_took_effect_and_audits_when_it_was_asked_for_and_when_it_was_so() -> None:
    options = {**verifying(), "user_id": "data.admin_id"}
    delivery = deliver(reference_event(workflow_id="w"))
    async with started(WorkflowControlHandler, options, temporal=FakeTemporal("w")) as handler:
        before = datetime.now(UTC)
        ledger = await told_after(handler, delivery)
    [row] = ledger.rows
    values, details = row.values, row.values["details"]
    assert ledger.told == [("workflow_signal_confirmed", "w")]
    assert (values["event_id"], values["route"], values["user_id"]) == ("event-1", "route", "user-uuid-54321")
    assert (values["entity_type"], values["notes"]) == ("workflow", None)
    assert (details["signal"], details["seen"], details["by"]) == ("pause", "paused", "query status")
    requested, effective = (datetime.fromisoformat(details[f"{name}_at"]) for name in ("requested", "effective"))
    assert before.replace(microsecond=0) <= requested <= effective <= datetime.now(UTC)


async def test_the_event_itself_does_not_wait_for_the_look() -> None:
    temporal = FakeTemporal("w")
    async with started(WorkflowControlHandler, verifying(), temporal=temporal) as handler:
        delivery = pause()
        assert await hand(handler, delivery) == [None]
    assert temporal.looks == []
    assert [job.queue for job in delivery.context.jobs] == ["inline"]
    assert delivery.context.rows == []


async def test_a_signal_that_nobody_wants_confirmed_leaves_no_job() -> None:
    async with started(WorkflowControlHandler, verifying(), temporal=FakeTemporal("w")) as handler:
        delivery = deliver(reference_event("resumed", workflow_id="w"))
        assert await hand(handler, delivery) == [None]
    assert delivery.context.jobs == []


async def test_it_looks_again_until_the_workflow_has_done_it() -> None:
    temporal = FakeTemporal("w")
    temporal.answers["w"] = "running"
    async with started(WorkflowControlHandler, verifying(), temporal=temporal) as handler:
        running = asyncio.create_task(told_after(handler, pause()))
        await eventually(lambda: len(temporal.looks) >= 3)
        assert not running.done()
        temporal.answers["w"] = "paused"
        assert (await running).told == [("workflow_signal_confirmed", "w")]


async def pause_then(signal_kind: str, *, options: dict[str, Any] | None = None, state: str = "running") -> Ledger:
    """What is told of a pause that is looked at after another signal."""
    temporal = FakeTemporal("w")
    async with started(WorkflowControlHandler, options or verifying(timeout="1m"), temporal=temporal) as handler:
        delivery = pause()
        await hand(handler, delivery)
        await hand(handler, deliver(reference_event(signal_kind, id="event-2", workflow_id="w")))
        temporal.answers["w"] = state
        ledger = Ledger()
        await ledger.work(handler, delivery.context.jobs, most=1)
    return ledger


async def test_a_pause_that_a_resume_followed_before_it_was_seen_is_superseded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(followups, "_SLICE", 0.0)
    with caplog.at_level("INFO", logger="pipeline.stage.test"):
        ledger = await pause_then("resumed")
    assert ledger.told == [("workflow_signal_superseded", "w")]
    assert ledger.left == []
    details = ledger.rows[0].values["details"]
    assert (details["seen"], details["effective_at"]) == ("running", None)
    assert details["superseded_by"]["signal"] == "resume"
    assert datetime.fromisoformat(details["requested_at"]) <= datetime.fromisoformat(details["superseded_by"]["at"])
    assert caplog.messages[-1] == "pause of w: superseded by resume"


async def test_what_is_seen_is_confirmed_whatever_came_after_it() -> None:
    assert (await pause_then("resumed", state="paused")).told == [("workflow_signal_confirmed", "w")]


@pytest.mark.parametrize(("kind", "undone_by"), [("paused", None), ("cancelled", ["resume"]), ("resumed", [])])
async def test_a_signal_that_does_not_undo_it_supersedes_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: str, undone_by: list[str] | None
) -> None:
    monkeypatch.setattr(followups, "_SLICE", 0.0)
    named = {} if undone_by is None else {"undone_by": undone_by}
    ledger = await pause_then(kind, options=verifying(timeout="1m", **named))
    assert (ledger.rows, len(ledger.left)) == ([], 1)


async def test_a_job_of_an_earlier_version_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    temporal = FakeTemporal("w")
    temporal.answers["w"] = "running"
    async with started(WorkflowControlHandler, verifying(timeout=0.01), temporal=temporal) as handler:
        delivery = pause()
        await hand(handler, delivery)
        [job] = delivery.context.jobs
        payload = {name: value for name, value in job.payload.items() if name != "undone_by"}
        earlier = replace(job, payload=payload | {"targets": [["w", None]]})
        ledger = Ledger()
        await ledger.work(handler, [earlier])
    assert ledger.told == [("workflow_signal_not_confirmed", "w")]


async def test_what_is_not_confirmed_in_time_is_audited_with_what_was_seen_last() -> None:
    temporal = FakeTemporal("w")
    temporal.answers["w"] = {"state": {"now": "running"}}
    options = verifying(field="state.now", timeout=0.1)
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        ledger = await told_after(handler, pause())
    [row] = ledger.rows
    assert row.values["action"] == "workflow_signal_not_confirmed"
    assert row.values["notes"] == 'not confirmed within 0.1 s: it is "running", not "paused"'
    assert (row.values["details"]["seen"], row.values["details"]["effective_at"]) == ("running", None)


async def test_the_last_look_comes_after_the_time_is_over() -> None:
    temporal = FakeTemporal("w")
    async with started(WorkflowControlHandler, verifying(timeout=0.05), temporal=temporal) as handler:
        delivery = pause()
        await hand(handler, delivery)
        await asyncio.sleep(0.06)  # as after an outage of whoever runs jobs
        ledger = Ledger()
        await ledger.work(handler, delivery.context.jobs)
    assert ledger.told == [("workflow_signal_confirmed", "w")]


async def test_a_workflow_without_an_answer_is_not_confirmed_and_the_reason_is_told() -> None:
    temporal = FakeTemporal("w")
    temporal.asleep.add("w")
    async with started(WorkflowControlHandler, verifying(timeout=0.1), temporal=temporal) as handler:
        [row] = (await told_after(handler, pause())).rows
    assert (
        row.values["notes"]
        == "not confirmed within 0.1 s: no worker answers the query 'status': there is none, or its workflow tasks fail"
    )


async def test_nothing_is_given_up_while_temporal_is_away() -> None:
    temporal = FakeTemporal("w")
    ledger = Ledger()
    async with started(WorkflowControlHandler, verifying(timeout=0.05), temporal=temporal) as handler:
        delivery = pause()
        await hand(handler, delivery)
        temporal.down = True
        await asyncio.sleep(0.06)
        await ledger.work(handler, delivery.context.jobs, most=2)
        assert (ledger.rows, len(ledger.left)) == ([], 1)
        temporal.down = False
        await ledger.work(handler, [])
    assert ledger.told == [("workflow_signal_confirmed", "w")]


async def test_a_job_makes_room_for_the_next_which_is_due_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followups, "_SLICE", 0.1)
    temporal = FakeTemporal("w", "x")
    temporal.answers |= {"w": "running", "x": "running"}
    async with started(WorkflowControlHandler, verifying(timeout="1m"), temporal=temporal) as handler:
        delivery = deliver(make_event("admin.workflow.paused", {"workflow_ids": ["w", "x"]}))
        await hand(handler, delivery)
        ledger = Ledger()
        [job] = delivery.context.jobs
        await ledger.work(handler, [job], most=1)
        [later] = ledger.left
        assert ledger.ends == {job.id: "done"}
        assert later.id != job.id
        assert later.stage == job.stage
        assert later.due_at is not None
        assert 0 < (later.due_at - datetime.now(UTC)).total_seconds() <= 0.5


async def test_each_workflow_of_a_list_has_a_row_of_its_own() -> None:
    temporal = FakeTemporal("a", "b", "c")
    temporal.answers["b"] = "running"
    delivery = deliver(make_event("admin.workflow.paused", {"workflow_ids": ["a", "b", "c", "x"]}))
    options = {**verifying(timeout=0.1), "partial": "accept"}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        ledger = await told_after(handler, delivery)
    assert sorted(ledger.told) == [
        ("workflow_signal_confirmed", "a"),
        ("workflow_signal_confirmed", "c"),
        ("workflow_signal_not_confirmed", "b"),
    ]


async def test_the_status_that_temporal_gives_may_be_what_confirms() -> None:
    temporal = FakeTemporal("w")
    options = {"verify": {"cancel": {"by": "status", "equals": ["COMPLETED", "CANCELED"]}}}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        delivery = deliver(reference_event("cancelled", workflow_id="w"))
        assert await hand(handler, delivery) == [None]
        temporal.completed["w"] = "CANCELED"
        ledger = Ledger()
        await ledger.work(handler, delivery.context.jobs)
    [row] = ledger.rows
    assert row.values["details"]["effective_at"] == "2026-01-31T12:00:00.000Z"  # when the server says that it ended
    assert row.values["details"]["seen"] == "CANCELED"


@pytest.mark.parametrize(("answer", "equals"), [(True, 1), (1, True), ("1", 1), (None, "None"), ({"a": 1}, "a")])
async def test_values_of_different_kinds_are_not_equal(answer: Any, equals: Any) -> None:
    temporal = FakeTemporal("w")
    temporal.answers["w"] = answer
    async with started(WorkflowControlHandler, verifying(equals=equals, timeout=0.01), temporal=temporal) as handler:
        assert (await told_after(handler, pause())).told == [("workflow_signal_not_confirmed", "w")]


async def test_a_huge_or_odd_answer_is_kept_in_short() -> None:
    temporal = FakeTemporal("w")
    temporal.answers["w"] = {"text": "\0" + "x" * 10_000, "odd": float("nan")}
    async with started(WorkflowControlHandler, verifying(timeout=0.01), temporal=temporal) as handler:
        [row] = (await told_after(handler, pause())).rows
    assert len(row.values["details"]["seen"]) <= 210
    assert "\0" not in row.values["details"]["seen"]


async def test_a_job_that_was_taken_over_leaves_nothing() -> None:
    async with started(WorkflowControlHandler, verifying(), temporal=FakeTemporal("w")) as handler:
        delivery = pause()
        await hand(handler, delivery)
        ledger = Ledger()
        ledger.taken = {job.id for job in delivery.context.jobs}
        await ledger.work(handler, delivery.context.jobs)
    assert (ledger.rows, ledger.ends) == ([], {})


async def test_an_unexpected_error_fails_only_its_own_job() -> None:
    class Odd(FakeTemporal):
        async def query(self, workflow_id: str, name: str, **more: Any) -> Any:
            if workflow_id == "odd":
                raise ZeroDivisionError
            return await super().query(workflow_id, name, **more)

    deliveries = [
        deliver(make_event("admin.workflow.paused", {"workflow_id": name}, id=name)) for name in ("odd", "even")
    ]
    async with started(WorkflowControlHandler, verifying(), temporal=Odd("odd", "even")) as handler:
        await hand(handler, *deliveries)
        ledger = Ledger()
        with pytest.raises(ZeroDivisionError):
            await ledger.work(handler, [job for delivery in deliveries for job in delivery.context.jobs])
        assert ledger.told == [("workflow_signal_confirmed", "even")]
        [left] = deliveries[0].context.jobs
        settlement = FakeSettlement([claimed(left)], ledger)
        await handler.jobs_failed(settlement, [claimed(left)], "ZeroDivisionError")
    [row] = settlement.rows
    assert row.values["action"] == "workflow_signal_not_confirmed"
    assert row.values["notes"].endswith("ZeroDivisionError")


async def test_an_event_may_wait_for_its_confirmation() -> None:
    temporal = FakeTemporal("w")
    async with started(WorkflowControlHandler, verifying(wait=True, timeout="1s"), temporal=temporal) as handler:
        delivery = pause()
        assert await hand(handler, delivery) == [None]
    assert delivery.context.jobs == []
    assert [row.values["action"] for row in delivery.context.rows] == ["workflow_signal_confirmed"]


async def test_an_event_that_waited_in_vain_is_tried_again_without_a_second_signal() -> None:
    temporal = FakeTemporal("w")
    temporal.answers["w"] = "running"
    async with started(WorkflowControlHandler, verifying(wait=True, timeout=0.05), temporal=temporal) as handler:
        [error] = await hand(handler, pause())
        assert isinstance(error, Retry)
        assert str(error) == "pause of w is not confirmed within 0.05 s: it is 'running'"
        temporal.answers["w"] = "paused"
        assert await hand(handler, pause()) == [None]
        temporal.down = True
        assert isinstance((await hand(handler, deliver(reference_event(workflow_id="w"))))[0], Unavailable)
    assert temporal.calls[:1] == ["w"]
    assert len(temporal.workflows["w"]) == 1


async def test_a_resource_that_cannot_look_is_refused_at_the_start() -> None:
    class Signals:
        async def signal(self, *args: Any, **named: Any) -> None: ...

    for options, method in ((verifying(), "query"), ({"batch": {"query": "A = 'b'"}}, "start_batch")):
        with pytest.raises(PluginError, match=f"has no {method}"):
            async with started(WorkflowControlHandler, options, temporal=Signals()):
                pass
    async with started(WorkflowControlHandler, temporal=Signals()):
        pass


def test_the_queue_of_follow_ups_is_told_where_it_is_not_the_runners_own() -> None:
    def queues(**options: Any) -> tuple[str, ...]:
        return WorkflowControlHandler.queues(WorkflowControlHandler.Options.model_validate(options))

    assert queues() == queues(queue="control") == queues(**verifying()) == ()
    assert queues(queue="control", **verifying()) == ("control",)
    assert queues(queue="control", **verifying(wait=True, timeout=1)) == ()


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        ({"verify": BY_QUERY}, "verify", "a table for each signal"),
        ({"verify": {"pauze": BY_QUERY}}, "", "verify.pauze: no routing key sends this signal"),
        (verifying(undone_by=["resum"]), "", "verify.pause.undone_by.resum: no routing key"),
        ({"verify": {"pause": {"by": "query", "equals": "x"}}}, "verify.pause", "needs the query's name"),
        ({"verify": {"pause": {"by": "status", "equals": "CANCELLED"}}}, "verify.pause", "no status"),
        ({"verify": {"pause": {"by": "status", "name": "x", "equals": "FAILED"}}}, "verify.pause", "belong to"),
        (verifying(equals=[]), "verify.pause", "an empty list"),
        (verifying(wait=True), "verify.pause", "at most 10s"),
        (verifying(timeout=0), "verify.pause.timeout", "greater than 0"),
        ({"batch": {}}, "batch", "give query, or event_query"),
        ({"batch": {"query": "A = 'b"}}, "batch.query", "not closed"),
        ({"batch": {"query": "A", "operations": {"x": "cancel"}}}, "", "batch.operations.x: no routing key"),
        ({"batch": {"query": "A", "operations": {"pause": "kill"}}}, "batch.operations.pause", "'terminate'"),
        ({"max_workflows": 0}, "max_workflows", "greater than"),
    ],
)
def test_wrong_options_are_refused_with_what_to_do(options: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        WorkflowControlHandler.Options.model_validate(options)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == place
