"""What publishing promises: everything confirmed is in the stream, in order."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.connectors import BrokerRefused, Connector
from tests.contract.driver import ContractBase, Driver, connected, event, events, numbers, read_all


class PublishingContract(ContractBase):
    """`Connector.publish`."""

    async def test_ten_thousand_messages_in_one_call(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 10_000))

        assert numbers(await read_all(connector, stream, 10_000)) == list(range(1, 10_001))

    async def test_nothing_to_publish_is_no_error(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, [])
        await connector.publish(stream, [event(1)])

        assert numbers(await read_all(connector, stream, 1)) == [1]

    async def test_concurrent_publishers_lose_nothing_and_keep_their_own_order(
        self, driver: Driver, connector: Connector, stream: str
    ) -> None:
        async with connected(driver) as other:

            async def publish(publisher: int) -> None:
                for turn in range(10):
                    first = publisher * 1000 + turn * 5
                    await (connector, other)[publisher % 2].publish(stream, events(first, first + 4))

            await asyncio.gather(*(publish(publisher) for publisher in range(20)))

        read = numbers(await read_all(connector, stream, 1000))
        assert sorted(read) == [publisher * 1000 + number for publisher in range(20) for number in range(50)]
        for publisher in range(20):
            own = [number for number in read if number // 1000 == publisher]
            assert own == sorted(own)

    async def test_a_missing_stream_is_refused(self, driver: Driver, connector: Connector) -> None:
        missing = driver.stream()
        with pytest.raises(BrokerRefused, match=missing):
            await asyncio.wait_for(connector.publish(missing, [event(1)]), 20)

    async def test_a_refused_publish_harms_no_other(self, driver: Driver, connector: Connector, stream: str) -> None:
        missing = driver.stream()

        outcomes = await asyncio.gather(
            connector.publish(stream, [event(1)]),
            connector.publish(missing, [event(2)]),
            connector.publish(stream, [event(3)]),
            return_exceptions=True,
        )

        assert [type(outcome) for outcome in outcomes] == [type(None), BrokerRefused, type(None)]
        assert sorted(numbers(await read_all(connector, stream, 2))) == [1, 3]

    async def test_a_stream_that_is_created_after_a_refusal_is_published_to(
        self, driver: Driver, connector: Connector
    ) -> None:
        name = driver.stream()
        with pytest.raises(BrokerRefused):
            await connector.publish(name, [event(1)])
        await connector.create_stream(name)
        await connector.publish(name, [event(2)])

        assert numbers(await read_all(connector, name, 1)) == [2]
