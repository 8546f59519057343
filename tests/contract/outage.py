"""What is promised when the broker goes away; for connectors whose driver can take it away."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.connectors import BrokerRefused, Connector, Start
from pipeline.errors import Unavailable
from tests.contract.driver import PATIENCE, ContractBase, Outages, Reader, events, numbers


class OutageContract(ContractBase):
    """A lost connection, and a deleted stream."""

    async def test_a_lost_connection_ends_a_waiting_reader_as_unavailable(
        self, driver: Outages, connector: Connector, stream: str
    ) -> None:
        async with Reader(connector, stream) as reader:
            waiting = asyncio.ensure_future(anext(reader.batches))
            await asyncio.sleep(0.2)
            await driver.cut()
            with pytest.raises(Unavailable) as lost:
                await asyncio.wait_for(waiting, PATIENCE)
        assert lost.value.dependency == "broker"

    async def test_after_a_loss_reading_goes_on_from_the_next_offset(
        self, driver: Outages, connector: Connector, stream: str
    ) -> None:
        await connector.publish(stream, events(1, 10))
        async with Reader(connector, stream) as before:
            await before.take(10)
            await driver.cut()
            with pytest.raises(Unavailable):
                await before.batch()
        await connector.connect()
        await connector.publish(stream, events(11, 20))

        async with Reader(connector, stream, Start("offset", before.messages[-1].offset + 1)) as after:
            assert numbers(await after.take(10)) == list(range(11, 21))

    async def test_a_deleted_stream_ends_its_reader(self, driver: Outages, connector: Connector, stream: str) -> None:
        async with Reader(connector, stream) as reader:
            waiting = asyncio.ensure_future(anext(reader.batches))
            await asyncio.sleep(0.2)
            await driver.delete(stream)
            with pytest.raises((Unavailable, BrokerRefused)):
                await asyncio.wait_for(waiting, PATIENCE)
        async with Reader(connector, stream) as reader:
            with pytest.raises(BrokerRefused):
                await reader.batch()

    async def test_a_stream_that_is_created_anew_is_another_one(
        self, driver: Outages, connector: Connector, stream: str
    ) -> None:
        await connector.publish(stream, events(1, 10))
        async with Reader(connector, stream) as reader:
            old = await reader.take(10)
        await driver.delete(stream)
        await asyncio.sleep(0.05)
        await connector.create_stream(stream)
        assert await connector.timestamp_at(stream, old[-1].offset) is None
        await connector.publish(stream, events(11, 20))

        assert await connector.timestamp_at(stream, old[0].offset) != old[0].timestamp
        async with Reader(connector, stream) as reader:
            assert numbers(await reader.take(10)) == list(range(11, 21))
