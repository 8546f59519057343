"""Permits bound what runs at once, are given in turn, and are taken for many jobs together."""

from __future__ import annotations

import asyncio

from pipeline.jobs.permits import Permits


async def test_no_more_are_taken_than_there_are() -> None:
    permits = Permits(3)

    assert await permits.take(2) == 2
    assert await permits.take(2) == 1


async def test_whoever_wants_more_than_the_limit_gets_the_limit_at_once() -> None:
    assert await Permits(3).take(100) == 3


async def test_those_who_wait_are_served_in_turn() -> None:
    permits = Permits(1)
    await permits.take(1)
    order: list[int] = []

    async def wait(number: int) -> None:
        await permits.take(1)
        order.append(number)
        permits.give_back(1)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    permits.give_back(1)
    await asyncio.gather(*tasks)

    assert order == [0, 1, 2]


async def test_permits_that_come_back_together_are_taken_together() -> None:
    permits = Permits(10)
    await permits.take(10)
    waiting = asyncio.create_task(permits.take(10))
    await asyncio.sleep(0)

    permits.give_back(1)
    await asyncio.sleep(0)
    permits.give_back(9)

    assert await waiting == 10


async def test_closed_permits_are_taken_by_nobody() -> None:
    permits = Permits(1)
    await permits.take(1)
    waiting = asyncio.create_task(permits.take(1))
    await asyncio.sleep(0)

    permits.close()
    permits.give_back(1)

    assert await waiting == 0
    assert await permits.take(1) == 0
