"""The workers of a stage's queue: how they start, end, and are started again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Policy
from pipeline.events import Event
from pipeline.handlers import Context
from tests.pipeline.dispatch.harness import Bench, bench, eventually, message, stage


def admit_now(pipe: Bench, offset: int) -> None:
    """Admit a message within this very turn of the loop."""
    with pytest.raises(StopIteration):
        pipe.source.admit([message(offset)]).send(None)


async def test_what_comes_just_as_the_last_worker_ends_is_not_left_lying(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    gate: asyncio.Future[None] = loop.create_future()
    waiting = asyncio.Event()

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 0:
            waiting.set()
            await gate

    async with bench(tmp_path, [stage("x", handle, Policy(concurrency=1))]) as pipe:
        await pipe.feed(message(0))
        await waiting.wait()
        # In the next turn the worker finishes 0 and 1 and ends, then 2 comes, and then the queue looks for the work
        # that 1 was, while the worker that has ended still counts.
        gate.set_result(None)
        loop.call_soon(admit_now, pipe, 2)
        admit_now(pipe, 1)
        await eventually(lambda: pipe.stats.processed == 3, within=2)
