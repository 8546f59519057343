"""A flow of events that goes on beside whatever a test does, also while the broker is away."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from tests.integration.rig.events import KINDS, Sent, admin_event
from tests.integration.rig.publishers import Publisher

__all__ = ["Persistent", "published_all_the_time"]

_PIECE = 10
_PAUSE = 0.1


class Persistent:
    """A publisher that tries again until it succeeds, on a new connection: some events may then come twice."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Publisher]]) -> None:
        self._connect = connect

    async def publish(self, events: Sequence[Sent]) -> None:
        """Return when the broker has confirmed every one."""
        while True:
            stack = AsyncExitStack()
            try:
                publisher = await stack.enter_async_context(self._connect())
                await publisher.publish(events)
            except Exception:
                await asyncio.sleep(_PAUSE)
            else:
                return
            finally:
                with suppress(Exception):
                    await stack.aclose()


@asynccontextmanager
async def published_all_the_time(
    workflow_ids: Sequence[str], *publishers: Publisher, pause: float = _PAUSE
) -> AsyncIterator[list[Sent]]:
    """Publish admin events until the end of the block, ten and then a pause; the list grows as they are confirmed."""
    sent: list[Sent] = []
    ended = asyncio.Event()

    async def publish() -> None:
        numbers = itertools.count()
        for publisher in itertools.cycle(publishers):
            if ended.is_set():
                return
            piece = [
                admin_event(f"event-{number}", workflow_ids[number % len(workflow_ids)], KINDS[number % 2])
                for number in itertools.islice(numbers, _PIECE)
            ]
            await publisher.publish(piece)
            sent.extend(piece)
            await asyncio.sleep(pause)

    publishing = asyncio.create_task(publish())
    try:
        yield sent
    finally:
        ended.set()
        await publishing
