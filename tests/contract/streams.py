"""What is promised of streams as a whole: creation, bounds, timestamps, the offsets of groups."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.connectors import BrokerRefused, Connector, StreamBounds
from tests.contract.driver import PATIENCE, ContractBase, Driver, connected, event, events, numbers, read_all


class StreamsContract(ContractBase):
    """`create_stream`, `bounds`, `timestamp_at`, `stored_offset` and `store_offset`."""

    async def test_creating_a_stream_again_leaves_it_as_it_is(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 3))
        await connector.create_stream(stream)

        assert numbers(await read_all(connector, stream, 3)) == [1, 2, 3]

    async def test_two_may_create_a_stream_at_once(self, driver: Driver, connector: Connector) -> None:
        name = driver.stream()
        async with connected(driver) as other:
            await asyncio.gather(*(each.create_stream(name) for each in (connector, other, connector, other)))

        assert await connector.bounds(name) == StreamBounds(None, None)

    async def test_an_empty_stream_has_no_bounds(self, connector: Connector, stream: str) -> None:
        assert await connector.bounds(stream) == StreamBounds(None, None)

    async def test_a_filled_stream_has_bounds(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 100))
        offsets = [message.offset for message in await read_all(connector, stream, 100)]

        bounds = await connector.bounds(stream)

        assert bounds.first == offsets[0]
        assert bounds.last is not None
        assert offsets[0] <= bounds.last <= offsets[-1]

    async def test_the_bounds_of_a_missing_stream_are_refused(self, driver: Driver, connector: Connector) -> None:
        missing = driver.stream()
        with pytest.raises(BrokerRefused, match=missing):
            await connector.bounds(missing)

    async def test_a_message_s_timestamp_is_found_by_its_offset(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 50))
        await asyncio.sleep(0.05)
        await connector.publish(stream, events(51, 60))
        read = await read_all(connector, stream, 60)

        for message in (read[0], read[25], read[49], read[50], read[59]):
            assert await connector.timestamp_at(stream, message.offset) == message.timestamp
        assert read[49].timestamp < read[50].timestamp

    async def test_there_is_no_timestamp_where_there_is_no_message(self, connector: Connector, stream: str) -> None:
        assert await connector.timestamp_at(stream, 0) is None
        await connector.publish(stream, events(1, 5))
        last = (await read_all(connector, stream, 5))[-1].offset

        assert await connector.timestamp_at(stream, last + 1000) is None

    async def test_a_group_that_stored_no_offset_has_none(self, connector: Connector, stream: str) -> None:
        assert await connector.stored_offset(stream, "nobody") is None

    async def test_a_group_s_offset_is_kept(self, driver: Driver, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 10))
        offsets = [message.offset for message in await read_all(connector, stream, 10)]

        await connector.store_offset(stream, "one", offsets[2])
        await connector.store_offset(stream, "other", offsets[5])
        await connector.store_offset(stream, "one", offsets[4])

        async with connected(driver) as other:
            await _settles(other, stream, "one", offsets[4])
            await _settles(other, stream, "other", offsets[5])

    async def test_storing_an_offset_writes_no_message(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, [event(1)])
        await connector.store_offset(stream, "group", 0)
        await connector.publish(stream, [event(2)])

        assert numbers(await read_all(connector, stream, 2)) == [1, 2]


async def _settles(connector: Connector, stream: str, group: str, offset: int) -> None:
    """Storing is best effort: wait until the broker has taken it."""
    async with asyncio.timeout(PATIENCE):
        while await connector.stored_offset(stream, group) != offset:
            await asyncio.sleep(0.02)
