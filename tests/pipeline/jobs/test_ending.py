"""Tasks end, also those that swallow a cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from pipeline.jobs import ending
from pipeline.jobs.ending import end_all


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end_all([task])
    assert swallowed.is_set()
    assert task.cancelled()


async def test_a_task_may_end_by_itself() -> None:
    task = asyncio.create_task(asyncio.sleep(0.01, "done"))
    await end_all([task], within=5)
    assert task.result() == "done"


async def test_a_task_that_never_ends_is_left_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "_AGAIN", 0.01)
    may_end = asyncio.Event()

    async def stubborn() -> None:
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    task = asyncio.create_task(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end_all([task])
    assert not task.done()
    assert "stubborn does not end" in caplog.text
    may_end.set()
    await task
