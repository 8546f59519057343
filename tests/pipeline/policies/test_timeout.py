"""Timeout: one timer for all of a stage's tries."""

from __future__ import annotations

import asyncio
import contextlib
import traceback

import pytest

from pipeline.policies.timeout import Timeout


async def run(timeout: Timeout, work: object) -> object:
    task = asyncio.current_task()
    assert task is not None
    return await timeout.run(work, task, asyncio.get_running_loop())  # type: ignore[arg-type]


async def answer() -> str:
    return "done"


async def never() -> None:
    await asyncio.Event().wait()


async def test_a_try_in_time_gives_its_result() -> None:
    assert await run(Timeout(5), answer()) == "done"


async def test_without_a_limit_a_try_is_just_awaited() -> None:
    assert await run(Timeout(None), answer()) == "done"


async def test_a_try_that_takes_too_long_is_cancelled_and_says_so() -> None:
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"):
        await run(Timeout(0.05), never())


async def test_a_try_that_takes_too_long_says_where_it_was() -> None:
    with pytest.raises(TimeoutError) as late:
        await run(Timeout(0.05), never())
    assert "never" in [frame.name for frame in traceback.extract_tb(late.value.__traceback__)]


async def test_the_task_is_usable_after_a_timeout() -> None:
    timeout = Timeout(0.05)
    with pytest.raises(TimeoutError):
        await run(timeout, never())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await run(timeout, answer()) == "done"


async def test_a_cancellation_from_outside_is_not_taken_for_a_timeout() -> None:
    task = asyncio.create_task(run(Timeout(60), never()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_only_the_try_that_is_late_is_ended() -> None:
    timeout = Timeout(0.1)
    finished = asyncio.Event()

    async def short() -> str:
        await asyncio.wait_for(finished.wait(), 5)
        return "short"

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            finished.set()

    first = asyncio.create_task(run(timeout, late()))  # type: ignore[arg-type]
    while not timeout._due:
        await asyncio.sleep(0)
    due = next(iter(timeout._due.values()))
    while asyncio.get_running_loop().time() < due - 0.02:
        await asyncio.sleep(0.005)
    second = asyncio.create_task(run(timeout, short()))  # type: ignore[arg-type]
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(results[0], TimeoutError)
    assert results[1] == "short"


async def test_a_handler_that_catches_its_cancellation_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    timeout = Timeout(0.02, "slow")

    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        while not caplog.messages:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return "done at last"

    async with asyncio.timeout(10):
        assert await run(timeout, stubborn()) == "done at last"
    (told,) = caplog.messages
    assert told.startswith("stage slow: a try of at most 0.02 s has gone on for twice as long")
    timeout.close()
