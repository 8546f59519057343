"""The end of a source's work: nothing runs on once it is closed, fenced, or unsure of its lease."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Policy, RetryPolicy
from pipeline.dispatch import stage_queue
from pipeline.dispatch.stage_queue import StageQueue
from pipeline.errors import Unavailable
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.jobs import ending
from tests.pipeline.dispatch.harness import bench, eventually, message, stage


async def test_work_that_must_not_be_started_costs_no_turns_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        """Takes any event."""

    looks = 0
    look = StageQueue._look

    def counted(self: StageQueue) -> None:
        nonlocal looks
        looks += 1
        look(self)

    monkeypatch.setattr(StageQueue, "_look", counted)
    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        pipe.source.own_until(0.0)
        await pipe.feed(message(1), message(2))
        for _ in range(200):
            await asyncio.sleep(0)
        assert looks < 5
        pipe.source.own_until(float("inf"))
        await pipe.settle(2)


async def test_no_trial_is_made_while_the_lease_may_have_passed_to_another(tmp_path: Path) -> None:
    tries = 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("crm")

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(1))
        await eventually(lambda: tries == 1)
        pipe.source.own_until(0.0)
        await asyncio.sleep(0.6)
        assert tries == 1
        pipe.source.own_until(float("inf"))
        await pipe.settle(1)
        assert tries == 2


def other_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def test_a_handler_that_calls_its_cancellation_an_outage_leaves_nothing_behind(tmp_path: Path) -> None:
    calls = 0
    before = other_tasks()

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Unavailable("crm", "the call was cancelled") from None

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(1), message(2))
        await eventually(lambda: calls == 2)
    assert not {name for name in other_tasks() - before if name.startswith(("recover", "trial"))}
    await asyncio.sleep(0.5)
    assert calls == 2


@pytest.mark.parametrize("swallows", [True, False])
async def test_a_handler_that_answers_its_cancellation_gets_no_further_event(tmp_path: Path, swallows: bool) -> None:
    calls: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        calls.append(event.offset)
        if event.offset == 0:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise RuntimeError("cancelled") from None

    one_by_one = Policy(concurrency=1, retry=RetryPolicy(attempts=2, backoff=0.01, jitter=0))
    async with bench(tmp_path, [stage("x", handle, one_by_one)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(5)))
        await eventually(lambda: calls == [0])
    await asyncio.sleep(0.05)
    assert calls == [0]


async def test_a_handler_that_swallows_its_time_out_does_not_stop_the_stage(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 0:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return
        if context.attempt == 1:
            await asyncio.Event().wait()  # the second time-out of this worker

    quick = Policy(timeout=0.05, concurrency=1, retry=RetryPolicy(attempts=2, backoff=0.01, jitter=0))
    async with bench(tmp_path, [stage("x", handle, quick)]) as pipe:
        await pipe.feed(message(0, {"k": 1}), message(1, {"k": 1}))
        await pipe.settle(2)
        assert pipe.outcomes == {"handled": 2}


async def test_a_handler_that_swallows_every_cancellation_does_not_keep_its_source_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stage_queue, "_LAST_WORDS", 0.01)
    monkeypatch.setattr(ending, "_AGAIN", 0.01)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def handle(event: Event[Any], context: Context) -> None:
        begun.set()
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    async with bench(tmp_path, [stage("x", handle, Policy(timeout=None))]) as pipe:
        await pipe.feed(message(0), message(1))
        await begun.wait()
        await asyncio.wait_for(pipe.source.close(), 5)
        assert "stage x: a try does not end" in caplog.text
        may_end.set()
        await eventually(lambda: not any("a try" in task.get_name() for task in asyncio.all_tasks()))
        assert pipe.lease.progress.prefix == -1
        assert pipe.ended == []


async def test_a_handler_may_take_its_leave_when_it_is_cancelled(tmp_path: Path) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def handle(event: Event[Any], context: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.6)  # longer than it takes until a task is cancelled again
            left.set()

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0))
        await begun.wait()
    assert left.is_set()
