"""Stopping a source: what has begun comes to its end, what has not is left, and nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Policy, RetryPolicy
from pipeline.errors import Unavailable
from pipeline.events import Event
from pipeline.handlers import Context
from tests.pipeline.dispatch.harness import async_stage, batch_stage, bench, eventually, message, route, stage

ONE_AT_ONCE = Policy(concurrency=1)
MANY = 50


class Gate:
    """A handler that waits until it is let go on, and notes what it began and finished."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.finished: list[int] = []
        self.open = asyncio.Event()

    async def __call__(self, event: Event[Any], context: Context) -> None:
        self.begun.append(event.offset)
        await self.open.wait()
        self.finished.append(event.offset)


async def drained(source: Any, gate: Gate) -> None:
    """Tell the source to stop, then let its handler go on, and wait for the end."""
    draining = asyncio.create_task(source.drain())
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.wait_for(draining, 5)


async def test_a_stop_finishes_the_event_in_hand_and_begins_no_other(tmp_path: Path) -> None:
    gate = Gate()
    async with bench(tmp_path, [stage("x", gate, ONE_AT_ONCE)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(MANY)))
        await eventually(lambda: bool(gate.begun))
        await drained(pipe.source, gate)
        assert gate.finished == gate.begun == [0]
        assert pipe.stats.processed == 1
        assert pipe.lease.progress.prefix == 0


async def test_a_stop_begins_no_following_event_of_a_lane(tmp_path: Path) -> None:
    gate = Gate()
    async with bench(tmp_path, [stage("x", gate)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset % 2}) for offset in range(MANY)))
        await eventually(lambda: len(gate.begun) == 2)
        await drained(pipe.source, gate)
        assert sorted(gate.finished) == [0, 1]
        assert pipe.stats.processed == 2


async def test_a_stop_takes_no_further_batch(tmp_path: Path) -> None:
    batches: list[int] = []
    go_on = asyncio.Event()

    async def handle(batch: list[Any]) -> None:
        batches.append(len(batch))
        await go_on.wait()

    async with bench(tmp_path, [batch_stage("x", handle, max_batch=5)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(MANY)))
        await eventually(lambda: len(batches) == 4)  # so many at once
        draining = asyncio.create_task(pipe.source.drain())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait_for(draining, 5)
        assert len(batches) == 4 < MANY / 5
        assert pipe.stats.processed == sum(batches)


async def test_what_has_begun_goes_through_all_its_stages_and_routes(tmp_path: Path) -> None:
    gate, later, closing = Gate(), Gate(), Gate()
    later.open.set()
    closing.open.set()
    stages = [stage("x", gate, ONE_AT_ONCE), stage("y", later), stage("z", closing)]
    routes = [route(["x", "y"], ["z"], key=("data.k",)), route(["y"], key=("data.k",), name="second")]
    async with bench(tmp_path, stages, routes) as pipe:
        await pipe.feed(*(message(offset, {"k": offset}) for offset in range(5)))
        await eventually(lambda: bool(gate.begun))
        await drained(pipe.source, gate)
        assert gate.finished == [0]
        assert later.finished == [0, 0]
        assert closing.finished == [0]
        assert pipe.outcomes == {"handled": 1}


async def test_what_has_begun_is_finished_also_behind_an_event_that_has_not(tmp_path: Path) -> None:
    first, second = Gate(), Gate()
    second.open.set()

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 1:
            await first(event, context)
        else:
            first.finished.append(event.offset)

    routes = [route(["x"], key=("data.a",)), route(["y"], key=("data.b",), name="second")]
    async with bench(tmp_path, [stage("x", handle), stage("y", second)], routes) as pipe:
        # The third has done its first route, and waits behind the second for the next; the second waits for the first.
        await pipe.feed(message(1, {"a": 1, "b": 0}), message(2, {"a": 1, "b": 1}), message(3, {"a": 2, "b": 1}))
        await eventually(lambda: 3 in first.finished)
        await drained(pipe.source, first)
        assert sorted(first.finished) == [1, 2, 3]
        assert second.finished == [1, 2, 3]
        assert pipe.lease.progress.prefix == 3


async def test_a_stop_leaves_no_further_jobs(tmp_path: Path) -> None:
    gate = Gate()
    async with bench(tmp_path, [stage("x", gate), async_stage("later")]) as pipe:
        await pipe.feed(*(message(offset, {"k": "one"}) for offset in range(MANY)))
        await eventually(lambda: bool(gate.begun))
        await drained(pipe.source, gate)
        assert len(await pipe.jobs()) == pipe.stats.processed == 1


async def test_a_stop_waits_for_no_retry_and_begins_none(tmp_path: Path) -> None:
    tries: list[int] = []
    gate = Gate()

    async def handle(event: Event[Any], context: Context) -> None:
        tries.append(event.offset)
        if event.offset == 1:
            raise RuntimeError("again")
        await gate(event, context)

    soon = Policy(retry=RetryPolicy(attempts=100, backoff=0.02, max_backoff=0.02, jitter=0))
    async with bench(tmp_path, [stage("x", handle, soon)]) as pipe:
        await pipe.feed(message(1), message(2))
        await eventually(lambda: tries.count(1) >= 2)
        draining = asyncio.create_task(pipe.source.drain())
        await asyncio.sleep(0)
        before = tries.count(1)
        await asyncio.sleep(0.1)  # its next try would have come meanwhile
        gate.open.set()
        await asyncio.wait_for(draining, 5)
        assert tries.count(1) <= before + 1  # the one that was under way
        assert pipe.stats.processed == 1


async def test_a_stop_does_not_wait_for_a_dependency(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise Unavailable("crm", "it is away")

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(MANY)))
        await eventually(lambda: "crm" in pipe.source.window.paused)
        await asyncio.wait_for(pipe.source.drain(), 5)
        assert pipe.stats.processed == 0


# What has begun, and waits


class Later(Gate):
    """A second stage: it fails with `error` as long as there is one."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error
        self.open.set()

    async def __call__(self, event: Event[Any], context: Context) -> None:
        self.begun.append(event.offset)
        if self.error is not None:
            raise self.error
        self.finished.append(event.offset)


def slowly(seconds: float) -> Policy:
    return Policy(retry=RetryPolicy(attempts=9, backoff=seconds, max_backoff=seconds, jitter=0))


async def test_a_stop_waits_for_the_next_try_of_what_has_begun(tmp_path: Path) -> None:
    first, second = Gate(), Later(RuntimeError("again"))
    first.open.set()
    async with bench(tmp_path, [stage("x", first), stage("y", second, slowly(0.1))]) as pipe:
        await pipe.feed(message(0))
        await eventually(lambda: second.begun == [0])
        second.error = None
        await asyncio.wait_for(pipe.source.drain(5), 4)
        assert (first.finished, second.finished, pipe.outcomes) == ([0], [0], {"handled": 1})


async def test_a_stop_waits_for_the_dependency_of_what_has_begun_and_of_nothing_else(tmp_path: Path) -> None:
    first, second = Gate(), Later(Unavailable("crm", "it is away"))
    first.open.set()
    async with bench(tmp_path, [stage("x", first, ONE_AT_ONCE), stage("y", second)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset % 2}) for offset in range(4)))
        await eventually(lambda: "crm" in pipe.source.window.paused and len(first.finished) == 2)
        draining = asyncio.create_task(pipe.source.drain(5))
        await asyncio.sleep(0)
        second.error = None
        await asyncio.wait_for(draining, 4)
        assert first.finished == [0, 1]
        assert (sorted(second.finished), pipe.outcomes) == ([0, 1], {"handled": 2})


async def test_a_stop_does_not_wait_for_what_comes_after_the_grace_and_says_that_it_has_begun(tmp_path: Path) -> None:
    first, second = Gate(), Later(RuntimeError("again"))
    first.open.set()
    async with bench(tmp_path, [stage("x", first), stage("y", second, slowly(60))]) as pipe:
        await pipe.feed(message(0))
        await eventually(lambda: second.begun == [0])
        await asyncio.wait_for(pipe.source.drain(5), 1)
        assert (pipe.stats.processed, pipe.source.begun) == (0, 1)


async def test_what_has_begun_and_waits_for_its_key_is_not_forgotten_where_a_stop_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.dependencies._FIRST_WAIT", 0.05)
    gate, calls = asyncio.Event(), []

    async def first(event: Event[Any], context: Context) -> None: ...

    async def second(event: Event[Any], context: Context) -> None:
        calls.append(event.offset)
        if len(calls) == 1:
            await gate.wait()
            raise Unavailable("crm")

    one_of_each = Policy.model_validate({"concurrency": {"per_key": 1, "key": "data.t"}})
    stages = [stage("first", first), stage("second", second, one_of_each)]
    async with bench(tmp_path, stages, [route(["first", "second"], match="a"), route(["second"], match="b")]) as pipe:
        parked = pipe.source._queues["second"]._failures._parked
        await pipe.feed(message(0, {"t": "x"}, key="b"), message(1, {"t": "x"}, key="b"))
        await eventually(lambda: len(parked) == 1)
        await pipe.feed(message(2, {"t": "x"}, key="a"))
        await eventually(lambda: len(parked) == 2)
        gate.set()
        await eventually(lambda: pipe.source.window.is_held)  # 1 was called, and waits for the dependency as 0 does
        await asyncio.wait_for(pipe.source.drain(5.0), 10)
        assert calls == [0, 2]
        assert (pipe.source.begun, pipe.outcomes) == (0, {"handled": 1})
