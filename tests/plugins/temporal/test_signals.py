"""The contract of signalling, which the real resource and the tests' fake both keep."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from pipeline import Reject, Unavailable
from tests.handlers.eventually import eventually
from tests.plugins.temporal.worlds import FakeWorld, RealWorld, World, real_world


class SignalContract:
    """What every `Signaller` does."""

    @pytest.fixture
    def workflow_id(self) -> str:
        return f"contract-{secrets.token_hex(6)}"

    async def test_a_signal_is_applied(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="1")
        assert await world.applied(workflow_id) == 1

    async def test_one_request_id_is_applied_once(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        for _ in range(3):
            await world.resource.signal(workflow_id, "pause", request_id="1")
        assert await world.applied(workflow_id) == 1

    async def test_other_request_ids_are_applied_too(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        for number in range(3):
            await world.resource.signal(workflow_id, "pause", request_id=str(number))
        assert await world.applied(workflow_id) == 3

    async def test_a_request_id_counts_per_workflow(self, world: World, workflow_id: str) -> None:
        for name in (workflow_id, f"{workflow_id}-2"):
            await world.begin(name)
            await world.resource.signal(name, "pause", request_id="1")
            assert await world.applied(name) == 1

    async def test_arguments_are_taken(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="1", args=["event-1"])
        assert await world.applied(workflow_id) == 1

    async def test_an_unknown_workflow_is_rejected(self, world: World, workflow_id: str) -> None:
        with pytest.raises(Reject) as caught:
            await world.resource.signal(workflow_id, "pause", request_id="1")
        assert caught.value.kind == "workflow_not_found"
        assert workflow_id in str(caught.value)

    async def test_a_completed_workflow_is_rejected(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        await world.finish(workflow_id)
        with pytest.raises(Reject) as caught:
            await world.resource.signal(workflow_id, "pause", request_id="1")
        assert caught.value.kind == "workflow_completed"
        assert workflow_id in str(caught.value)

    async def test_a_repeat_is_taken_quietly_after_the_workflow_completed(self, world: World, workflow_id: str) -> None:
        await world.begin(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="1")
        await world.finish(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="1")


class TestFake(SignalContract):
    @pytest.fixture
    def world(self) -> World:
        return FakeWorld()

    async def test_an_outage_is_unavailable(self, world: FakeWorld) -> None:
        world.fake.down = True
        with pytest.raises(Unavailable):
            await world.resource.signal("w", "pause", request_id="1")


class TestReal(SignalContract):
    @pytest.fixture
    async def world(self, temporal_address: str) -> AsyncIterator[World]:
        async with real_world(temporal_address) as world:
            yield world

    @pytest.mark.parametrize("workflow_id", ["", "x" * 5_000, "\ud800"])
    async def test_an_id_that_cannot_be_one_is_rejected(self, world: World, workflow_id: str) -> None:
        with pytest.raises(Reject):
            await world.resource.signal(workflow_id, "pause", request_id="1")

    @pytest.mark.parametrize("size", [3_000_000, 5_000_000])
    async def test_an_argument_that_is_too_large_is_rejected(self, world: World, workflow_id: str, size: int) -> None:
        await world.begin(workflow_id)
        with pytest.raises(Reject) as caught:
            await world.resource.signal(workflow_id, "pause", request_id="1", args=["x" * size])
        assert caught.value.kind == "invalid_argument"

    async def test_a_repeat_after_the_workflow_continued_as_new_is_recognised_by_the_event_id(
        self, world: RealWorld, workflow_id: str
    ) -> None:
        await world.begin(workflow_id)
        await world.resource.signal(workflow_id, "pause", request_id="1", args=["event-1"])
        first = await world.run_of(workflow_id)
        await world.resource.signal(workflow_id, "renew", request_id="2")

        async def renewed() -> bool:
            return await world.run_of(workflow_id) != first

        await eventually(renewed)
        await world.resource.signal(workflow_id, "pause", request_id="1", args=["event-1"])
        memory = await world.memory(workflow_id)
        assert (memory.applied, memory.repeated, memory.seen) == (1, 1, ["event-1"])
