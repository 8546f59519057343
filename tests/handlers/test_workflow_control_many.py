"""What workflow-control promises of events that name many workflows, and of queries that find them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline import Delivery, Reject, Unavailable
from pipeline_handlers.workflow_control import WorkflowControlHandler, followups
from tests.handlers.eventually import eventually
from tests.handlers.fake_temporal import FakeTemporal
from tests.handlers.harness import deliver, hand, make_event, started
from tests.handlers.working import Ledger


def many(*workflow_ids: Any, id: str = "event-1", kind: str = "paused") -> Delivery:  # noqa: A002
    return deliver(make_event(f"admin.workflow.{kind}", {"workflow_ids": list(workflow_ids)}, id=id))


def of_bom(*, id: str = "event-1", kind: str = "paused", **more: Any) -> Delivery:  # noqa: A002
    return deliver(make_event(f"admin.workflow.{kind}", {"bom_id": "b1", **more}, id=id))


BY_BOM = {"query": "WorkflowId STARTS_WITH '{{ data.bom_id }}.'"}


async def test_all_workflows_of_a_list_are_signalled_at_once_each_once() -> None:
    temporal = FakeTemporal("a", "b", "c")
    temporal.gate.clear()
    async with started(WorkflowControlHandler, {"in_flight": 2, "signal_args": ["id"]}, temporal=temporal) as handler:
        delivery = many("a", "b", "c", "a")
        running = asyncio.create_task(hand(handler, delivery))
        await eventually(lambda: temporal.in_flight == 2)
        temporal.gate.set()
        assert await running == [None]
    assert temporal.workflows == {name: [("pause", ("event-1",))] for name in "abc"}
    [row] = delivery.context.rows
    assert row.values["action"] == "workflow_signals_sent"
    assert row.values["details"]["workflows"] == {"a": "sent", "b": "sent", "c": "sent"}
    assert row.values["details"]["signal"] == "pause"


async def test_signals_of_a_list_and_single_ones_to_one_workflow_keep_their_order() -> None:
    temporal = FakeTemporal("a", "b")
    single = deliver(make_event("admin.workflow.resumed", {"workflow_id": "a"}, id="event-2"))
    async with started(WorkflowControlHandler, temporal=temporal) as handler:
        await hand(handler, many("a", "b"), single, many("b", id="event-3", kind="cancelled"))
    assert temporal.workflows == {"a": [("pause", ()), ("resume", ())], "b": [("pause", ()), ("cancel", ())]}


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "the list is empty"),
        (["a", ""], "it is ['a', ''], not a list of texts"),
        (["a", 7], "it is ['a', 7], not a list of texts"),
        ("a", "it is 'a', not a list of texts"),
        ({"a": 1}, "it is {'a': 1}, not a list of texts"),
    ],
)
async def test_what_is_no_list_of_ids_is_rejected(ids: Any, reason: str) -> None:
    temporal = FakeTemporal("a")
    event = make_event("admin.workflow.paused", {"workflow_ids": ids, "workflow_id": "a"})
    async with started(WorkflowControlHandler, temporal=temporal) as handler:
        [error] = await hand(handler, deliver(event))
    assert isinstance(error, Reject)
    assert (error.kind, str(error)) == ("invalid_data", f"no workflow ids: data.workflow_ids: {reason}")
    assert temporal.calls == []


async def test_a_list_that_is_too_long_is_rejected_and_the_limit_is_named() -> None:
    temporal = FakeTemporal("a", "b", "c")
    async with started(WorkflowControlHandler, {"max_workflows": 2}, temporal=temporal) as handler:
        [long, fits] = await hand(handler, many("a", "b", "c"), many("a", "b", "a"))
    assert isinstance(long, Reject)
    assert long.kind == "too_many_workflows"
    assert "names 3 workflows, and max_workflows allows 2" in str(long)
    assert fits is None


async def test_a_null_list_is_none_and_the_path_is_configurable() -> None:
    temporal = FakeTemporal("a", "b")
    async with started(WorkflowControlHandler, {"workflow_ids": "data.runs"}, temporal=temporal) as handler:
        null = make_event("admin.workflow.paused", {"runs": None, "workflow_id": "a"})
        listed = make_event("admin.workflow.paused", {"runs": ["b"], "workflow_id": "a"}, id="event-2")
        assert await hand(handler, deliver(null), deliver(listed)) == [None, None]
    assert temporal.calls == ["a", "b"]


async def test_workflows_that_take_no_signal_make_a_dead_letter_that_names_them_once_the_others_have_theirs() -> None:
    temporal = FakeTemporal("a", "b", "c")
    temporal.completed["b"] = "COMPLETED"
    async with started(WorkflowControlHandler, temporal=temporal) as handler:
        [mixed, gone] = await hand(handler, many("a", "b", "x", "c"), many("x", "y", id="event-2"))
    assert isinstance(mixed, Reject)
    assert isinstance(gone, Reject)
    assert mixed.kind == "some_rejected"
    assert str(mixed) == ("2 of 4 workflows took no signal: workflow_completed: 'b'; workflow_not_found: 'x'")
    assert (gone.kind, str(gone)) == (
        "workflow_not_found",
        "2 of 2 workflows took no signal: workflow_not_found: 'x', 'y'",
    )
    assert temporal.workflows["a"] == temporal.workflows["c"] == [("pause", ())]


async def test_where_partial_lists_are_accepted_the_row_tells_which_took_no_signal() -> None:
    temporal = FakeTemporal("a")
    delivery = many("a", "x")
    async with started(WorkflowControlHandler, {"partial": "accept"}, temporal=temporal) as handler:
        assert [error is None for error in await hand(handler, delivery, many("x", "y", id="event-2"))] == [True, False]
    [row] = delivery.context.rows
    assert row.values["details"]["workflows"] == {"a": "sent", "x": "workflow_not_found"}
    assert row.values["notes"] == "1 took no signal: workflow_not_found: 'x'"


async def test_a_long_list_of_failures_is_cut_short() -> None:
    async with started(WorkflowControlHandler, temporal=FakeTemporal()) as handler:
        [error] = await hand(handler, many(*(f"w{number}" for number in range(30))))
    assert str(error).endswith("'w19'; and 10 more")


async def test_on_another_try_only_those_are_signalled_that_were_not() -> None:
    class Flaky(FakeTemporal):
        async def signal(self, workflow_id: str, *args: Any, **named: Any) -> None:
            if workflow_id == "b" and self.down:
                self.calls.append("b")
                raise Unavailable("temporal", "gone")
            await FakeTemporal.signal(self, workflow_id, *args, **named) if not self.down else await self._let(
                workflow_id, *args, **named
            )

        async def _let(self, *args: Any, **named: Any) -> None:
            self.down = False
            try:
                await FakeTemporal.signal(self, *args, **named)
            finally:
                self.down = True

    temporal = Flaky("a", "b", "c")
    temporal.down = True
    async with started(WorkflowControlHandler, {"in_flight": 1}, temporal=temporal) as handler:
        [error] = await hand(handler, many("a", "b", "c"))
        assert isinstance(error, Unavailable)
        assert temporal.calls == ["a", "b"]
        temporal.down = False
        assert await hand(handler, many("a", "b", "c")) == [None]
        assert temporal.calls == ["a", "b", "b", "c"]
        assert await hand(handler, many("a", "b", "c")) == [None]  # as after a crash: nothing is remembered of it
    assert temporal.calls[4:] == ["a", "b", "c"]
    assert all(seen == [("pause", ())] for seen in temporal.workflows.values())


async def test_a_query_starts_one_batch_operation_however_often_its_event_comes() -> None:
    temporal = FakeTemporal("b1.x", "b1.y", "b2.x")
    options = {"batch": BY_BOM, "signal_args": ["id"]}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        for _ in range(3):
            delivery = of_bom()
            assert await hand(handler, delivery) == [None]
    assert list(temporal.batches) == [delivery.context.request_id]
    assert temporal.workflows == {"b1.x": [("pause", ("event-1",))], "b1.y": [("pause", ("event-1",))], "b2.x": []}


async def test_an_event_that_names_a_workflow_needs_no_query() -> None:
    temporal = FakeTemporal("w")
    async with started(WorkflowControlHandler, {"batch": BY_BOM}, temporal=temporal) as handler:
        assert await hand(handler, of_bom(workflow_id="w"), of_bom(workflow_ids=["w"], id="event-2")) == [
            None,
            None,
        ]
    assert temporal.batches == {}
    assert len(temporal.calls) == 2


async def test_how_a_batch_operation_ended_is_audited_by_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followups, "_SLICE", 0.1)
    temporal = FakeTemporal("b1.x", "b1.y")
    temporal.batches_end = False
    options = {"batch": BY_BOM, "user_id": "data.admin_id"}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        delivery = of_bom(admin_id="me")
        assert await hand(handler, delivery) == [None]
        [job] = delivery.context.jobs
        assert (job.queue, job.stage) == ("inline", "stage")
        assert delivery.context.rows == []
        ledger = Ledger()
        await ledger.work(handler, [job], most=1)
        assert (ledger.rows, len(ledger.left)) == ([], 1)
        found = temporal.batches[delivery.context.request_id]
        found.state, found.complete, found.failed = "completed", 1, 1
        await ledger.work(handler, [])
    [row] = ledger.rows
    assert row.values["action"] == "workflow_batch_completed"
    assert (row.values["entity_type"], row.values["entity_id"]) == ("workflow_batch", delivery.context.request_id)
    assert (row.values["user_id"], row.values["event_id"]) == ("me", "event-1")
    details = row.values["details"]
    assert (details["total"], details["complete"], details["failed"]) == (2, 1, 1)
    assert (details["query"], details["operation"]) == ("WorkflowId STARTS_WITH 'b1.'", "signal")
    assert row.values["notes"] == "it failed for 1 of 2 workflows"


async def test_a_batch_operation_that_never_ends_is_followed_up_for_its_time() -> None:
    temporal = FakeTemporal("b1.x")
    temporal.batches_end = False
    async with started(WorkflowControlHandler, {"batch": {**BY_BOM, "timeout": 0.1}}, temporal=temporal) as handler:
        delivery = of_bom()
        await hand(handler, delivery)
        ledger = Ledger()
        await ledger.work(handler, delivery.context.jobs)
    [row] = ledger.rows
    assert row.values["action"] == "workflow_batch_not_finished"


async def test_operations_replace_the_signal() -> None:
    temporal = FakeTemporal("b1.x")
    options = {"batch": {**BY_BOM, "operations": {"cancel": "terminate"}}}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        assert await hand(handler, of_bom(kind="cancelled")) == [None]
    assert temporal.completed == {"b1.x": "TERMINATED"}


async def test_a_query_that_matches_too_many_is_rejected() -> None:
    temporal = FakeTemporal("b1.x", "b1.y")
    options = {"batch": {**BY_BOM, "max_workflows": 1}}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        [error] = await hand(handler, of_bom())
    assert isinstance(error, Reject)
    assert error.kind == "too_many_workflows"
    assert "matches 2 workflows, and batch.max_workflows allows 1" in str(error)
    assert temporal.batches == {}


async def test_while_another_batch_operation_has_the_place_the_event_waits() -> None:
    temporal = FakeTemporal("b1.x")
    temporal.most_batches = 0
    async with started(WorkflowControlHandler, {"batch": BY_BOM}, temporal=temporal) as handler:
        [error] = await hand(handler, of_bom())
    assert isinstance(error, Unavailable)
    assert error.dependency == "temporal batch operations"


async def test_an_events_own_query_counts_only_where_the_stage_says_so() -> None:
    temporal = FakeTemporal("a1", "a2")
    event = make_event("admin.workflow.paused", {"query": "WorkflowId STARTS_WITH 'a'"})
    async with started(WorkflowControlHandler, temporal=temporal) as handler:
        [error] = await hand(handler, deliver(event))
        assert isinstance(error, Reject)
    options = {"batch": {"event_query": "data.query"}}
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        bad = make_event("admin.workflow.paused", {"query": "nonsense"}, id="event-2")
        none = make_event("admin.workflow.paused", {}, id="event-3")
        found = await hand(handler, deliver(event), deliver(bad), deliver(none))
    assert [getattr(error, "kind", None) for error in found] == [None, "invalid_argument", "invalid_data"]
    assert len(temporal.batches) == 1
