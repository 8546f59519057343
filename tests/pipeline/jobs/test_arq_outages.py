"""Whatever the client raises when Redis goes away, it is an outage, and the queue comes back by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.errors import Unavailable
from pipeline.jobs.arq_queue import ArqHints
from tests.pipeline.jobs.hint_suite import Consumer, eventually

CLOSED = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
"""What uvloop raises for a write to a connection that the other side has just closed."""


@pytest.fixture
async def hints() -> AsyncIterator[ArqHints]:
    hints = ArqHints(None)
    yield hints
    await hints.close()


async def test_a_connection_that_closes_under_its_writer_is_an_outage_that_ends(
    hints: ArqHints, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 3

    async def fail_at_first(*words: Any, **options: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise CLOSED
        return await answer(*words, **options)

    answer = hints._redis.execute_command
    monkeypatch.setattr(hints._redis, "execute_command", fail_at_first)
    with pytest.raises(Unavailable, match="the handler is closed"):
        await hints.probe()
    with pytest.raises(Unavailable, match="the handler is closed"):
        await hints.put("q", [["a"]])
    assert not hints.is_up
    await eventually(lambda: hints.is_up, "the queue does not come back")
    await hints.put("q", [["a"]])
    consumer = Consumer()
    hints.serve("q", consumer, 1)
    await eventually(lambda: bool(consumer.ran), "the hint does not come")
