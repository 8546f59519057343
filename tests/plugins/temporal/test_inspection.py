"""The contract of looking at workflows and of batch operations, which the real resource and the fake both keep."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline import Reject, Unavailable
from tests.handlers.eventually import eventually
from tests.plugins.temporal.worlds import FakeWorld, World, real_world


async def seen(world: World, count: int, query: str) -> None:
    """Wait until visibility has caught up."""

    async def enough() -> bool:
        return await world.resource.count(query) == count

    await eventually(enough)


async def start(world: World, job_id: str, query: str, operation: Any, **more: Any) -> None:
    """Start a batch operation, once others that share the server have ended."""

    async def has_room() -> bool:
        try:
            await world.resource.start_batch(job_id, query, operation, reason="a test", **more)
        except Unavailable:
            return False
        return True

    await eventually(has_room)


async def ended(world: World, job_id: str) -> Any:
    async def over() -> bool:
        return (await world.resource.batch(job_id)).state != "running"

    await eventually(over)
    return await world.resource.batch(job_id)


class LookContract:
    """What every `Watcher` and `Batches` does."""

    @pytest.fixture
    def workflow_id(self) -> str:
        return f"contract-{secrets.token_hex(6)}"

    @pytest.fixture
    def job_id(self) -> str:
        return f"job-{secrets.token_hex(6)}"

    async def test_a_workflow_answers_a_query(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="1")
        answer = await world.resource.query(workflow_id, "status")
        assert (answer.value, answer.reason) == ("paused", "")

    async def test_no_answer_to_a_query_is_no_error_but_has_a_reason(self, world: World, workflow_id: str) -> None:
        missing = await world.resource.query(workflow_id, "status")
        assert missing.value is None
        assert workflow_id in missing.reason
        await world.begin(workflow_id)
        unknown = await world.resource.query(workflow_id, "no-such-query")
        assert unknown.value is None
        assert "no-such-query" in unknown.reason

    async def test_a_workflow_without_a_worker_gives_no_answer_though_temporal_is_well(
        self, world: World, workflow_id: str
    ) -> None:
        await world.begin_unserved(workflow_id)
        answer = await world.resource.query(workflow_id, "status")
        assert (answer.value, answer.reason) == (
            None,
            "no worker answers the query 'status': there is none, or its workflow tasks fail",
        )

    async def test_the_status_tells_how_a_workflow_ended_and_when(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        running = await world.resource.status(workflow_id)
        assert (running.value, running.reason, running.at) == ("RUNNING", "", None)
        await world.finish(workflow_id)
        over = await world.resource.status(workflow_id)
        assert over.value == "TERMINATED"
        assert over.at is not None
        assert datetime.now(UTC) - over.at < timedelta(days=3650)

    async def test_the_status_of_an_unknown_workflow_or_run_has_a_reason(self, world: World, workflow_id: str) -> None:
        assert workflow_id in (await world.resource.status(workflow_id)).reason
        await world.begin(workflow_id)
        assert (await world.resource.status(workflow_id, run_id="no such run")).reason

    async def test_the_signals_after_another_one_are_known_in_their_order(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        for request_id, signal in enumerate(["pause", "resume", "pause", "cancel"]):
            await world.resource.signal(workflow_id, signal, request_id=str(request_id))

        async def noted() -> bool:  # what comes while the workflow's worker is busy is noted when it is done
            return len(await world.resource.signals_after(workflow_id, "1")) == 2

        await eventually(noted)
        after = await world.resource.signals_after(workflow_id, "1")
        assert [later.signal for later in after] == ["pause", "cancel"]
        assert datetime.now(UTC) - after[-1].at < timedelta(minutes=5)
        assert list(await world.resource.signals_after(workflow_id, "3")) == []

    async def test_after_a_signal_that_is_not_there_nothing_is_known(self, world: World, workflow_id: str) -> None:
        assert list(await world.resource.signals_after(workflow_id, "1")) == []
        await world.begin(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="2")
        assert list(await world.resource.signals_after(workflow_id, "1")) == []

    async def test_a_batch_operation_signals_what_its_query_matches_once(
        self, world: World, workflow_id: str, job_id: str
    ) -> None:
        for name in ("a", "b"):
            await world.begin(f"{workflow_id}.{name}")
        query = f"WorkflowId STARTS_WITH '{workflow_id}.' AND ExecutionStatus = 'Running'"
        await seen(world, 2, query)
        for _ in range(2):
            await start(world, job_id, query, "signal", signal="pause", args=["event-1"])
        found = await ended(world, job_id)
        assert (found.state, found.total, found.complete, found.failed) == ("completed", 2, 2, 0)
        assert found.ended_at is not None
        await start(world, job_id, query, "signal", signal="pause", args=["event-2"])
        for name in ("a", "b"):
            assert await world.applied(f"{workflow_id}.{name}") == 1

    async def test_a_batch_operation_may_terminate(self, world: World, workflow_id: str, job_id: str) -> None:
        await world.begin(workflow_id)
        query = f"WorkflowId STARTS_WITH '{workflow_id}'"
        await seen(world, 1, query)
        await start(world, job_id, query, "terminate")
        assert (await ended(world, job_id)).complete == 1
        assert (await world.resource.status(workflow_id)).value == "TERMINATED"

    async def test_a_batch_operation_may_cancel(self, world: World, workflow_id: str, job_id: str) -> None:
        await world.begin(workflow_id)
        query = f"WorkflowId STARTS_WITH '{workflow_id}'"
        await seen(world, 1, query)
        await start(world, job_id, query, "cancel")
        assert (await ended(world, job_id)).complete == 1

        async def is_cancelled() -> bool:
            return (await world.resource.status(workflow_id)).value == "CANCELED"

        await eventually(is_cancelled)

    async def test_what_is_no_query_is_rejected(self, world: World, workflow_id: str, job_id: str) -> None:
        with pytest.raises(Reject) as caught:
            await world.resource.count("this is no query")
        assert caught.value.kind == "invalid_argument"
        with pytest.raises(Reject):
            await start(world, job_id, "this is no query", "terminate")

    async def test_of_a_batch_operation_that_is_not_there_nothing_is_known(self, world: World, job_id: str) -> None:
        assert (await world.resource.batch(job_id)).state == "unknown"


class TestFake(LookContract):
    @pytest.fixture
    def world(self) -> World:
        return FakeWorld()

    async def test_an_outage_is_unavailable(self, world: FakeWorld) -> None:
        world.fake.down = True
        for call in (
            world.fake.query("w", "status"),
            world.fake.status("w"),
            world.fake.count("q"),
            world.fake.batch("j"),
            world.fake.start_batch("j", "q", "cancel", reason="a test"),
        ):
            with pytest.raises(Unavailable):
                await call


class TestReal(LookContract):
    @pytest.fixture
    async def world(self, temporal_address: str) -> AsyncIterator[World]:
        async with real_world(temporal_address) as world:
            yield world

    async def test_a_search_attribute_that_the_namespace_lacks_is_rejected(self, world: World) -> None:
        with pytest.raises(Reject) as caught:
            await world.resource.count("NoSuchAttribute = 'x'")
        assert "NoSuchAttribute" in str(caught.value)

    @pytest.mark.parametrize("workflow_id", ["", "\ud800"])
    async def test_an_id_that_cannot_be_one_has_no_answer(self, world: World, workflow_id: str) -> None:
        assert (await world.resource.status(workflow_id)).reason
        assert (await world.resource.query(workflow_id, "status")).reason
