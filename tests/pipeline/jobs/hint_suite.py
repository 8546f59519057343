"""What every queue of hints keeps: inline, embedded, in Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic

import pytest

from pipeline.jobs.hints import HintQueue

PATIENCE = 10.0


class Consumer:
    """Notes what it is told to run; runs last until `finish`, where `slow`."""

    def __init__(self, *, slow: bool = False) -> None:
        self.ran: list[tuple[str, tuple[str, ...]]] = []
        self.running = 0
        self.pending = 0
        self.waiting_ids: set[str] = set()
        self._gate = asyncio.Event()
        if not slow:
            self._gate.set()

    @property
    def ids(self) -> list[str]:
        return [job for _, ids in self.ran for job in ids]

    async def run(self, queue: str, ids: Sequence[str]) -> None:
        self.ran.append((queue, tuple(ids)))
        self.running += 1
        try:
            await self._gate.wait()
        finally:
            self.running -= 1

    def waiting(self, queue: str) -> int:
        return self.pending

    def waits(self, queue: str, ids: Sequence[str]) -> bool:
        return any(job in self.waiting_ids for job in ids)

    def finish(self) -> None:
        self._gate.set()


class Broken(Consumer):
    """Fails with every other hint."""

    async def run(self, queue: str, ids: Sequence[str]) -> None:
        await super().run(queue, ids)
        if len(self.ran) % 2:
            raise RuntimeError("no")


async def eventually(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    until = monotonic() + seconds
    while not holds():
        assert monotonic() < until, what
        await asyncio.sleep(0.005)


class HintContract:
    """The tests; a subclass supplies `hints`, a queue that nothing else uses."""

    @pytest.fixture
    async def hints(self) -> AsyncIterator[HintQueue]:
        raise NotImplementedError("define the fixture 'hints' in the test class")
        yield  # noqa: PT022 - as subclasses do

    @pytest.fixture
    def queue(self) -> str:
        return f"q:{secrets.token_hex(4)}"

    async def test_each_hint_reaches_the_consumer_of_its_queue_once(self, hints: HintQueue, queue: str) -> None:
        one, other = Consumer(), Consumer()
        hints.serve(queue, one, 100)
        hints.serve(f"{queue}:other", other, 100)
        await hints.put(queue, [["a", "b"], ["c"]])
        await hints.put(f"{queue}:other", [["d"]])
        await eventually(lambda: len(one.ids) == 3 and len(other.ids) == 1, "they do not come")
        assert sorted(one.ran) == [(queue, ("a", "b")), (queue, ("c",))]
        assert other.ran == [(f"{queue}:other", ("d",))]

    async def test_hints_that_come_to_an_idle_queue_are_handed_out_as_they_come(
        self, hints: HintQueue, queue: str
    ) -> None:
        consumer = Consumer()
        hints.serve(queue, consumer, 100)
        numbers = [str(number) for number in range(10)]
        for number in numbers:
            await hints.put(queue, [[number]])
            await eventually(lambda number=number: number in consumer.ids, "it does not come")  # type: ignore[misc]
        assert consumer.ids == numbers

    async def test_a_thousand_hints_of_a_hundred_jobs_come_complete(self, hints: HintQueue, queue: str) -> None:
        consumer = Consumer()
        hints.serve(queue, consumer, 100)
        batches = [[f"{hint}-{job}" for job in range(100)] for hint in range(100)]
        await hints.put(queue, batches)
        await eventually(lambda: len(consumer.ran) == 100, "they do not come")
        assert sorted(consumer.ids) == sorted(job for batch in batches for job in batch)

    async def test_hints_that_are_dealt_with_count_until_they_are_done(self, hints: HintQueue, queue: str) -> None:
        consumer = Consumer(slow=True)
        hints.serve(queue, consumer, 100)
        await hints.put(queue, [["a"], ["b"]])
        await eventually(lambda: consumer.running == 2, "they do not begin")
        backlog = (await hints.backlogs([queue, "nothing"]))[queue]
        assert backlog.hints == 2
        assert backlog.oldest is not None
        assert 0 <= backlog.oldest < PATIENCE
        consumer.finish()
        async with asyncio.timeout(PATIENCE):
            while (backlog := (await hints.backlogs([queue]))[queue]).hints:
                await asyncio.sleep(0.01)
        assert backlog.oldest is None

    async def test_an_unknown_queue_holds_nothing(self, hints: HintQueue, queue: str) -> None:
        backlog = (await hints.backlogs([queue]))[queue]
        assert (backlog.hints, backlog.oldest) == (0, None)
        assert await hints.backlogs([]) == {}

    async def test_the_names_of_the_queues_are_remembered(self, hints: HintQueue, queue: str) -> None:
        await hints.put(queue, [["a"]])
        assert queue in await hints.names()

    async def test_a_consumer_that_fails_is_served_on(
        self, hints: HintQueue, queue: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        consumer = Broken()
        hints.serve(queue, consumer, 100)
        await hints.put(queue, [["a"], ["b"], ["c"]])
        await eventually(lambda: len(consumer.ran) == 3, "they do not come")
        assert "could not be run" in caplog.text

    async def test_after_stop_no_hint_is_handed_out_and_those_that_were_go_on(
        self, hints: HintQueue, queue: str
    ) -> None:
        consumer = Consumer(slow=True)
        hints.serve(queue, consumer, 100)
        await hints.put(queue, [["a"]])
        await eventually(lambda: consumer.running == 1, "it does not begin")
        await hints.stop()
        await hints.put(queue, [["b"]])
        await asyncio.sleep(0.2)  # nothing tells that nothing comes
        assert (consumer.ids, consumer.running) == (["a"], 1)
        consumer.finish()
        await eventually(lambda: consumer.running == 0, "it does not end")

    async def test_it_answers_its_probe_and_may_be_closed_twice(self, hints: HintQueue) -> None:
        await hints.probe()
        assert hints.is_up
        await hints.close()
        await hints.close()
