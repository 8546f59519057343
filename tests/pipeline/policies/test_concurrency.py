"""Concurrency per key: no more of one key at once than the limit, and whoever waits is called."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pipeline.config.policies import ConcurrencyPolicy
from pipeline.handlers import Delivery
from pipeline.policies.concurrency import KeyConcurrency
from pipeline.policies.middleware import Throttled
from tests.pipeline.policies.samples import Clock, delivery, ids


class Gate:
    """A handler that runs until it is told to end."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, batch: Sequence[Delivery]) -> None:
        self.running += ids(batch)
        await self.open.wait()


def limited(gate: Gate, per_key: int = 1) -> tuple[KeyConcurrency, Any]:
    limit = KeyConcurrency(ConcurrencyPolicy(per_key=per_key, key="data.k"))
    return limit, limit.wrap(gate)


async def test_other_keys_and_events_without_a_key_run_beside_one_that_is_full() -> None:
    gate = Gate()
    limit, call = limited(gate)
    first = asyncio.create_task(call([delivery("1", k="a")]))
    await asyncio.sleep(0)
    second = asyncio.create_task(call([delivery("2", k="a"), delivery("3", k="b"), delivery("4")]))
    await asyncio.sleep(0)
    assert gate.running == ["1", "3", "4"]
    gate.open.set()
    assert await first is None
    throttled, *rest = await second
    assert isinstance(throttled, Throttled)
    assert rest == [None, None]
    assert limit.keys == 0


async def test_a_batch_does_not_get_around_the_limit() -> None:
    gate = Gate()
    gate.open.set()
    _, call = limited(gate, per_key=2)
    results = await call([delivery(str(number), k="a") for number in range(3)])
    assert gate.running == ["0", "1"]
    assert [type(each) for each in results] == [type(None), type(None), Throttled]


async def test_whoever_waits_is_called_when_a_place_becomes_free_one_for_one() -> None:
    gate = Gate()
    _, call = limited(gate)
    running = asyncio.create_task(call([delivery("1", k="a")]))
    await asyncio.sleep(0)
    woken: list[str] = []
    for name in ("2", "3"):
        (throttled,) = await call([delivery(name, k="a")])
        throttled.park(lambda name=name: woken.append(name) is None)
    assert woken == []
    gate.open.set()
    await running
    assert woken == ["2"]
    await call([delivery("2", k="a")])
    assert woken == ["2", "3"]


async def test_where_the_first_in_line_does_not_come_the_next_one_is_called() -> None:
    gate = Gate()
    _, call = limited(gate)
    running = asyncio.create_task(call([delivery("1", k="a")]))
    await asyncio.sleep(0)
    woken: list[str] = []
    for name, comes in (("2", False), ("3", True), ("4", True)):
        (throttled,) = await call([delivery(name, k="a")])
        throttled.park(lambda name=name, comes=comes: (woken.append(name), comes)[1])
    gate.open.set()
    await running
    assert woken == ["2", "3"]


async def test_whoever_begins_to_wait_when_the_place_is_free_already_is_called_at_once() -> None:
    gate = Gate()
    _, call = limited(gate)
    running = asyncio.create_task(call([delivery("1", k="a")]))
    await asyncio.sleep(0)
    (throttled,) = await call([delivery("2", k="a")])
    gate.open.set()
    await running
    woken: list[str] = []
    throttled.park(lambda: woken.append("2") is None)
    assert woken == ["2"]


async def test_a_call_that_fails_or_is_cancelled_gives_its_place_back() -> None:
    gate = Gate()
    limit, call = limited(gate)
    running = asyncio.create_task(call([delivery("1", k="a")]))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert limit.keys == 0


async def test_jobs_that_wait_are_told_turns_one_behind_the_other_as_long_as_calls_take() -> None:
    clock = Clock()

    async def work(batch: Sequence[Delivery]) -> None:
        clock.at += 2.0

    call = KeyConcurrency(ConcurrencyPolicy(per_key=1, key="data.k"), clock).wrap(work)
    await call([delivery("0", k="a")])

    async def told(count: int) -> list[float]:
        results = await call([delivery(str(number), k="a") for number in range(count)])
        return [each.after for each in results if isinstance(each, Throttled)]

    assert await told(4) == [2.0, 4.0, 6.0]
    clock.at += 60
    crowd = await told(3000)
    assert crowd[:3] == [2.0, 4.0, 6.0]
    assert set(crowd[15:]) == {30.0}
