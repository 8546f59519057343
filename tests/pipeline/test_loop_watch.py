"""A handler that blocks the event loop is told of: for how long, and where."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline.loop_watch import LoopWatch
from tests.pipeline.dispatch.harness import eventually


@asynccontextmanager
async def watching(limit: float) -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(limit)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(limit)
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def something_that_blocks() -> None:
    time.sleep(0.6)


async def test_a_loop_that_was_blocked_is_told_of_with_its_time_and_place(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(0.2) as watch:
        something_that_blocks()
        await eventually(lambda: watch.longest > 0)
    assert 0.2 <= watch.longest < 5
    assert "the event loop was blocked for" in caplog.text
    assert "in something_that_blocks: a handler calls something that blocks" in caplog.text


async def test_a_loop_that_is_only_busy_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(0.5) as watch:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            await asyncio.sleep(0)
    assert watch.longest == 0
    assert "was blocked" not in caplog.text
