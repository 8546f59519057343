"""What workflow-control promises: which signal goes where, how many at once, in what order, what a failure means."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Reject, Retry, Unavailable
from pipeline_handlers.workflow_control import WorkflowControlHandler
from tests.handlers.eventually import eventually
from tests.handlers.fake_temporal import FakeTemporal
from tests.handlers.harness import deliver, hand, make_event, reference_event, started

WORKFLOW = "bom-enrichment-uuid-12345"


async def errors_of(temporal: FakeTemporal, *events: Any, **options: Any) -> list[BaseException | None]:
    async with started(WorkflowControlHandler, options, temporal=temporal) as handler:
        return list(await hand(handler, *(deliver(event) for event in events)))


@pytest.mark.parametrize(("kind", "signal"), [("paused", "pause"), ("resumed", "resume"), ("cancelled", "cancel")])
async def test_the_references_events_send_the_references_signals(kind: str, signal: str) -> None:
    temporal = FakeTemporal(WORKFLOW)
    assert await errors_of(temporal, reference_event(kind)) == [None]
    assert temporal.workflows[WORKFLOW] == [(signal, ())]


async def test_a_sent_signal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.stage.test"):
        await errors_of(FakeTemporal(WORKFLOW), reference_event())
    assert caplog.messages == [f"sent pause to {WORKFLOW}"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"workflow_id": None}, "no workflow id: data.workflow_id: there is no field 'workflow_id'"),
        ({"workflow_id": ""}, "no workflow id: data.workflow_id: it is empty"),
        ({"workflow_id": 42}, "no workflow id: data.workflow_id: it is 42, not a text"),
        ({"workflow_id": ["a"]}, "no workflow id: data.workflow_id: it is ['a'], not a text"),
    ],
)
async def test_an_event_without_a_usable_workflow_id_is_rejected(changes: dict[str, Any], reason: str) -> None:
    temporal = FakeTemporal(WORKFLOW)
    [error] = await errors_of(temporal, reference_event(**changes))
    assert isinstance(error, Reject)
    assert (error.kind, str(error)) == ("invalid_data", reason)
    assert temporal.calls == []


async def test_a_null_workflow_id_is_rejected() -> None:
    [error] = await errors_of(FakeTemporal(), make_event("admin.workflow.paused", {"workflow_id": None}))
    assert isinstance(error, Reject)
    assert error.kind == "invalid_data"


async def test_a_routing_key_without_a_signal_is_rejected_and_the_known_ones_are_named() -> None:
    [error] = await errors_of(FakeTemporal(WORKFLOW), reference_event("renamed"))
    assert isinstance(error, Reject)
    assert error.kind == "unknown_action"
    assert "'admin.workflow.renamed'" in str(error)
    assert "admin.workflow.paused, admin.workflow.resumed, admin.workflow.cancelled" in str(error)


async def test_a_bad_event_does_not_stop_the_good_ones_of_its_batch() -> None:
    temporal = FakeTemporal("a", "b")
    found = await errors_of(
        temporal,
        reference_event(workflow_id="a", id="1"),
        reference_event(workflow_id=None, id="2"),
        reference_event(workflow_id="nobody", id="3"),
        reference_event(workflow_id="b", id="4"),
    )
    assert [getattr(error, "kind", None) for error in found] == [None, "invalid_data", "workflow_not_found", None]
    assert temporal.workflows == {"a": [("pause", ())], "b": [("pause", ())]}


async def test_names_and_keys_are_configurable() -> None:
    temporal = FakeTemporal("order-7")
    event = make_event("order.held", {"order": {"id": 7}, "why": "fraud"})
    found = await errors_of(
        temporal,
        event,
        signals={"order.held": "hold"},
        workflow_id="'order-' + string(int(data.order.id))",
        signal_args=["id", "data.why", "data.missing"],
    )
    assert found == [None]
    assert temporal.workflows["order-7"] == [("hold", ("event-1", "fraud", None))]


async def test_a_run_id_is_sent_where_the_event_has_one() -> None:
    temporal = FakeTemporal(WORKFLOW)
    found = await errors_of(
        temporal,
        reference_event(id="1", run_id="run"),
        reference_event(id="2"),
        reference_event(id="3", run_id="other"),
        reference_event(id="4", run_id=5),
        run_id="data.run_id",
    )
    assert [getattr(error, "kind", None) for error in found] == [None, None, "workflow_not_found", "invalid_data"]


async def test_another_resource_can_be_named() -> None:
    elsewhere = FakeTemporal(WORKFLOW)
    async with started(WorkflowControlHandler, {"resource": "elsewhere"}, elsewhere=elsewhere) as handler:
        await hand(handler, deliver(reference_event()))
    assert elsewhere.calls == [WORKFLOW]


async def test_a_repeated_event_is_applied_once() -> None:
    temporal = FakeTemporal(WORKFLOW)
    async with started(WorkflowControlHandler, temporal=temporal) as handler:
        for _ in range(3):
            await hand(handler, deliver(reference_event()))
    assert temporal.calls == [WORKFLOW] * 3
    assert temporal.workflows[WORKFLOW] == [("pause", ())]


async def test_signals_to_many_workflows_go_out_together_up_to_the_limit() -> None:
    names = [f"w{number}" for number in range(20)]
    temporal = FakeTemporal(*names)
    temporal.gate.clear()
    async with started(WorkflowControlHandler, {"in_flight": 5}, temporal=temporal) as handler:
        events = [reference_event(id=name, workflow_id=name) for name in names]
        first = asyncio.create_task(hand(handler, *map(deliver, events[:10])))
        second = asyncio.create_task(hand(handler, *map(deliver, events[10:])))
        await eventually(lambda: temporal.in_flight == 5)
        temporal.gate.set()
        assert [*await first, *await second] == [None] * 20
    assert temporal.most_in_flight == 5


async def test_signals_to_one_workflow_keep_their_order_also_across_overlapping_batches() -> None:
    temporal = FakeTemporal("a", "b")
    temporal.gate.clear()
    async with started(WorkflowControlHandler, {"signal_args": ["id"]}, temporal=temporal) as handler:
        batches = [
            [deliver(reference_event(id=f"{batch}{name}{place}", workflow_id=name)) for place in "12" for name in "ab"]
            for batch in "xyz"
        ]
        running = [asyncio.create_task(hand(handler, *batch)) for batch in batches]
        await eventually(lambda: temporal.in_flight == 2)
        temporal.gate.set()
        await asyncio.gather(*running)
    for name in "ab":
        seen = [args[0] for _, args in temporal.workflows[name]]
        assert seen == [f"{batch}{name}{place}" for batch in "xyz" for place in "12"]


async def test_nothing_is_kept_of_workflows_that_were_signalled() -> None:
    names = [f"w{number}" for number in range(100)]
    async with started(WorkflowControlHandler, temporal=FakeTemporal(*names)) as handler:
        await hand(handler, *(deliver(reference_event(id=name, workflow_id=name)) for name in names))
        assert handler._sender.turns == {}  # type: ignore[attr-defined]


async def test_an_outage_ends_the_whole_batch_as_unavailable_without_further_calls() -> None:
    names = [f"w{number}" for number in range(200)]
    temporal = FakeTemporal(*names)
    temporal.down = True
    events = [reference_event(id=name, workflow_id=name) for name in names]
    found = await errors_of(temporal, *events, in_flight=10)
    assert all(isinstance(error, Unavailable) and error.dependency == "temporal" for error in found)
    assert len(temporal.calls) <= 10


async def test_after_an_outage_signals_go_out_again() -> None:
    temporal = FakeTemporal(WORKFLOW)
    temporal.down = True
    async with started(WorkflowControlHandler, temporal=temporal) as handler:
        [error] = await hand(handler, deliver(reference_event()))
        assert isinstance(error, Unavailable)
        temporal.down = False
        assert await hand(handler, deliver(reference_event())) == [None]


async def test_an_unexpected_error_ends_only_its_own_event() -> None:
    class Flaky(FakeTemporal):
        async def signal(self, workflow_id: str, *args: Any, **named: Any) -> None:
            if workflow_id == "odd":
                raise ZeroDivisionError
            await super().signal(workflow_id, *args, **named)

    temporal = Flaky("odd", "even")
    found = await errors_of(temporal, *(reference_event(id=name, workflow_id=name) for name in ("odd", "even")))
    assert isinstance(found[0], ZeroDivisionError)
    assert not isinstance(found[0], Retry)
    assert found[1] is None


async def test_a_cancelled_batch_leaves_no_one_waiting() -> None:
    temporal = FakeTemporal("a")
    temporal.gate.clear()
    async with started(WorkflowControlHandler, {"in_flight": 1}, temporal=temporal) as handler:
        stuck = asyncio.create_task(hand(handler, deliver(reference_event(id="1", workflow_id="a"))))
        await eventually(lambda: temporal.in_flight == 1)
        stuck.cancel()
        await asyncio.wait([stuck])
        temporal.gate.set()
        assert await hand(handler, deliver(reference_event(id="2", workflow_id="a"))) == [None]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"signals": {}}, "signals"),
        ({"signals": {"a.b": ""}}, "signals.a.b"),
        ({"workflow_id": "data."}, "workflow_id"),
        ({"workflow_id": "date.workflow_id"}, "workflow_id"),
        ({"signal_args": ["1 +"]}, "signal_args.0"),
        ({"in_flight": 0}, "in_flight"),
        ({"signal": {}}, "signal"),
    ],
)
def test_wrong_options_are_refused_where_they_stand(options: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WorkflowControlHandler.Options.model_validate(options)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])).startswith(place)


def test_the_plugin_modules_load_no_heavy_library() -> None:
    code = (
        "import pipeline_handlers.log, pipeline_handlers.audit, pipeline_handlers.workflow_control, "
        "pipeline_plugins.temporal, sys; "
        "heavy = {'sqlalchemy', 'sqlmodel', 'alembic', 'temporalio', 'cel_expr_python', 'faststream'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
