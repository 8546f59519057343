"""What is promised of a connection's life: connecting, closing, and what a subscription leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.connectors import Connector
from pipeline.errors import Unavailable
from tests.contract.driver import (
    PATIENCE,
    ContractBase,
    Driver,
    Reader,
    connected,
    event,
    events,
    eventually,
    numbers,
    read_all,
)


class LifeContract(ContractBase):
    """`connect`, `close`, `probe`, and the end of a subscription."""

    async def test_a_connected_connector_is_probed(self, connector: Connector) -> None:
        await connector.probe()

    async def test_a_runner_claims_reads_and_publishes(self, driver: Driver, stream: str) -> None:
        for number in (1, 2):  # closing gives the claim up
            runner = driver.connector()
            await runner.claim()
            await runner.claim()
            await runner.connect()
            await runner.publish(stream, [event(number)])
            assert numbers(await read_all(runner, stream, number)) == [1, 2][:number]
            await runner.close()

    async def test_what_is_claimed_is_published_to_by_others(
        self, driver: Driver, connector: Connector, stream: str
    ) -> None:
        await connector.claim()
        async with connected(driver) as other, Reader(connector, stream) as reader:
            await other.publish(stream, [event(1)])
            assert numbers(await reader.take(1)) == [1]

    async def test_closing_twice_is_no_error(self, driver: Driver) -> None:
        connector = driver.connector()
        await connector.connect()
        await connector.close()
        await connector.close()

    async def test_closing_what_was_never_connected_is_no_error(self, driver: Driver) -> None:
        await driver.connector().close()

    async def test_a_closed_connector_may_be_connected_again(self, driver: Driver, stream: str) -> None:
        connector = driver.connector()
        for number in (1, 2):
            await connector.connect()
            await connector.publish(stream, [event(number)])
            await connector.close()

        async with connected(driver) as other:
            assert numbers(await read_all(other, stream, 2)) == [1, 2]

    async def test_connecting_again_leaves_readers_alone(self, connector: Connector, stream: str) -> None:
        async with Reader(connector, stream) as reader:
            await connector.publish(stream, [event(1)])
            await reader.take(1)
            await connector.connect()
            await connector.publish(stream, [event(2)])
            assert numbers(await reader.take(1)) == [2]

    async def test_closing_the_connector_ends_its_readers(self, driver: Driver, stream: str) -> None:
        connector = driver.connector()
        await connector.connect()
        async with Reader(connector, stream) as reader:
            await connector.publish(stream, [event(1)])
            await reader.take(1)
            waiting = asyncio.ensure_future(anext(reader.batches))
            await asyncio.sleep(0.05)
            await connector.close()
            with pytest.raises(Unavailable):
                await asyncio.wait_for(waiting, PATIENCE)

    async def test_a_subscription_that_is_closed_ends_and_leaves_no_task(
        self, connector: Connector, stream: str
    ) -> None:
        await connector.publish(stream, events(1, 10))
        before = asyncio.all_tasks()
        reader = Reader(connector, stream)
        await reader.take(10)

        await asyncio.wait_for(reader.batches.aclose(), PATIENCE)

        await eventually(lambda: asyncio.all_tasks() <= before, "no task of the subscription is left")

    async def test_a_waiting_reader_that_is_cancelled_ends_and_leaves_no_task(
        self, connector: Connector, stream: str
    ) -> None:
        before = asyncio.all_tasks()
        reader = Reader(connector, stream)
        waiting = asyncio.ensure_future(anext(reader.batches))
        await asyncio.sleep(0.1)

        waiting.cancel()
        await asyncio.wait({waiting}, timeout=PATIENCE)
        await asyncio.wait_for(reader.batches.aclose(), PATIENCE)

        assert waiting.cancelled()
        await eventually(lambda: asyncio.all_tasks() <= before, "no task of the subscription is left")

    async def test_a_closed_connector_leaves_no_task(self, driver: Driver, stream: str) -> None:
        before = asyncio.all_tasks()
        connector = driver.connector()
        await connector.connect()
        await connector.publish(stream, events(1, 10))
        await read_all(connector, stream, 10)
        await connector.close()

        await eventually(lambda: asyncio.all_tasks() <= before, "no task of the connector is left")
