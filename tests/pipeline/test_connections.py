"""Connections are asked whether they answer, and what changed is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from pipeline.connections import Connections, Probe
from pipeline.errors import Unavailable
from pipeline.stats import ConnectionStats
from tests.pipeline.dispatch.harness import eventually

ProbeOf = Callable[[], ConnectionStats]


@asynccontextmanager
async def asked(probe: Probe) -> AsyncIterator[ProbeOf]:
    """One connection, asked all the time; the block gets its state."""
    connections = Connections({"crm": probe}, every=0.002, answer=0.05)
    tasks = connections.start()
    try:
        yield lambda: connections.states["crm"]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_connection_goes_down_and_comes_up_again_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    down = False

    async def probe() -> None:
        if down:
            raise Unavailable("crm", "it is being mended")

    async with asked(probe) as state:
        assert state().state == "connecting"
        await eventually(lambda: state().state == "up")
        down = True
        await eventually(lambda: state().state == "down")
        assert "it is being mended" in state().reason
        since = state().since
        down = False
        await eventually(lambda: state().state == "up")
        assert state().reason == ""
        assert state().since >= since
    assert caplog.text.count("connection to crm: down") == 1
    assert "connection to crm: up again" in caplog.text


async def test_a_system_that_never_answers_is_down() -> None:
    async def probe() -> None:
        await asyncio.Event().wait()

    async with asked(probe) as state:
        await eventually(lambda: state().state == "down")
        assert state().reason == "no answer within 0.05 s"


@pytest.mark.parametrize("error", [ValueError("what?"), asyncio.CancelledError()])
async def test_whatever_a_probe_raises_it_is_asked_again(error: BaseException) -> None:
    times = 0

    async def probe() -> None:
        nonlocal times
        times += 1
        if times < 3:
            raise error

    async with asked(probe) as state:
        await eventually(lambda: state().state == "up")
        assert times >= 3
