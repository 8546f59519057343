"""`follow` reads for ever: through outages, lost streams and whatever else a broker does."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.connectors import BrokerRefused, MessageBatch, Start, Unreadable
from pipeline.errors import Unavailable
from pipeline.streams.follow import Following, follow
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.streams.follower import QUICK, Follower, publish


@pytest.fixture
def connector(store: MemoryStore) -> MemoryConnector:
    return MemoryConnector("memory://follow", store)


async def test_it_connects_and_yields_what_the_stream_holds_and_gets(
    store: MemoryStore, connector: MemoryConnector
) -> None:
    publish(store, 1, 2)
    follower = Follower(connector)
    await follower.until(numbers=[1, 2])
    publish(store, 3)
    await follower.until(numbers=[1, 2, 3])
    await follower.end()

    assert follower.states == ["reading"]


async def test_a_stream_with_nothing_to_read_counts_as_being_read(connector: MemoryConnector) -> None:
    follower = Follower(connector)
    await follower.until(state="reading")
    await follower.end()


async def test_batches_are_as_long_as_asked_for(store: MemoryStore, connector: MemoryConnector) -> None:
    publish(store, *range(10))
    sizes = []
    async with contextlib.aclosing(
        follow(connector, "s", lambda: _start(Start("first")), name="test", max_batch=4)
    ) as batches:
        async for batch in batches:
            sizes.append(len(batch))
            if sum(sizes) == 10:
                break

    assert sizes == [4, 4, 2]


async def test_after_an_outage_it_goes_on_where_the_caller_says(store: MemoryStore, connector: MemoryConnector) -> None:
    publish(store, 1, 2)
    follower = Follower(connector)
    await follower.until(numbers=[1, 2])

    store.fail("the cable is out")
    await follower.until(state="down")
    publish(store, 3)
    store.recover()
    await follower.until(numbers=[1, 2, 3])
    await follower.end()

    assert follower.states == ["reading", "down: broker is unavailable: the cable is out", "reading"]
    assert follower.starts == [Start("offset", 0), Start("offset", 2)]


async def test_a_broker_that_is_down_at_the_start_is_waited_for(store: MemoryStore, connector: MemoryConnector) -> None:
    store.fail()
    follower = Follower(connector)
    await follower.until(state="down")
    publish(store, 1)
    store.recover()
    await follower.until(numbers=[1])
    await follower.end()


async def test_a_stream_that_is_missing_at_the_start_is_an_error(
    store: MemoryStore, connector: MemoryConnector
) -> None:
    store.delete("s")
    follower = Follower(connector)

    with pytest.raises(BrokerRefused, match="'s'"):
        await asyncio.wait_for(follower.task, 5)


async def test_a_missing_stream_is_noticed_also_where_reading_it_would_wait_for_ever(store: MemoryStore) -> None:
    class Patient(MemoryConnector):
        async def read(self, *args: Any, **kwargs: Any) -> AsyncIterator[MessageBatch]:
            await asyncio.Event().wait()
            yield []

    store.delete("s")
    follower = Follower(Patient("memory://x", store))

    with pytest.raises(BrokerRefused, match="'s'"):
        await asyncio.wait_for(follower.task, 5)
    assert follower.states == []


async def test_a_stream_that_is_missing_when_the_broker_first_answers_is_an_error(
    store: MemoryStore, connector: MemoryConnector
) -> None:
    store.delete("s")
    store.fail()
    follower = Follower(connector)
    await follower.until(state="down")
    store.recover()

    with pytest.raises(BrokerRefused):
        await asyncio.wait_for(follower.task, 5)


async def test_a_missing_stream_may_be_waited_for_instead(store: MemoryStore, connector: MemoryConnector) -> None:
    store.delete("s")
    follower = Follower(connector, refuse_at_start=False)
    await follower.until(state="refused")
    store.create("s")
    publish(store, 1)
    await follower.until(numbers=[1])
    await follower.end()


async def test_a_stream_that_is_deleted_later_is_waited_for(store: MemoryStore, connector: MemoryConnector) -> None:
    publish(store, 1)
    follower = Follower(connector)
    await follower.until(numbers=[1])

    store.delete("s")
    await follower.until(state="refused")
    follower.position = 0
    store.create("s")
    publish(store, 2)
    await follower.until(numbers=[1, 2])
    await follower.end()

    assert follower.states[0] == "reading"
    assert all(state.startswith("refused: ") and "'s'" in state for state in follower.states[1:-1])
    assert follower.states[-1] == "reading"


async def test_an_idle_read_that_has_settled_survives_the_stream_s_deletion(
    store: MemoryStore, connector: MemoryConnector
) -> None:
    follower = Follower(connector, how=Following(0.001, 0.004, 0.0, settled=0.05))
    await follower.until(state="reading")
    await asyncio.sleep(0.06)

    store.delete("s")
    await follower.until(state="refused")
    store.create("s")
    await follower.until(state="reading")
    await follower.end()


class Damaged(MemoryConnector):
    """What can't be read on, until it is mended; a read that waits tells so first."""

    mended = False
    reads = 0

    async def read(self, *args: Any, **kwargs: Any) -> AsyncIterator[MessageBatch]:
        self.reads += 1
        if not self.mended:
            raise Unreadable("broker", "offset 7 is damaged: have it copied again")
        async for batch in super().read(*args, **kwargs):
            yield batch


async def test_what_can_t_be_read_is_told_once_as_an_error_that_stands_until_something_is_read(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    connector = Damaged("memory://x", store)
    follower = Follower(connector, how=Following(0.001, 0.004, 0.0, settled=60))
    await follower.until(state="stuck")
    async with asyncio.timeout(5):
        while connector.reads < 4:
            await asyncio.sleep(0)
    connector.mended = True
    publish(store, 1)
    await follower.until(numbers=[1])
    await follower.end()

    assert follower.states == ["reading", "stuck: offset 7 is damaged: have it copied again", "reading"]
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "stream s: stuck: offset 7 is damaged: have it copied again" in error.getMessage()


async def test_what_could_not_be_read_is_read_again_once_a_read_lasts(store: MemoryStore) -> None:
    connector = Damaged("memory://x", store)
    follower = Follower(connector, how=Following(0.001, 0.004, 0.0, settled=0.02))
    await follower.until(state="stuck")
    connector.mended = True
    await follower.until(state="reading")
    await follower.end()


async def test_what_start_can_t_do_now_is_tried_again(connector: MemoryConnector, store: MemoryStore) -> None:
    publish(store, 1)
    asked = 0

    async def start() -> Start:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unavailable("database", "no route")
        return Start("first")

    states: list[str] = []
    batches = follow(connector, "s", start, name="test", on_state=lambda state: states.append(str(state)), how=QUICK)
    async with contextlib.aclosing(batches):
        assert len(await asyncio.wait_for(anext(batches), 5)) == 1

    assert states == ["down: database is unavailable: no route", "reading"]


async def test_a_state_is_told_once(store: MemoryStore, connector: MemoryConnector) -> None:
    store.fail("still")
    follower = Follower(connector)
    await follower.until(state="down")
    await asyncio.sleep(0.05)  # ten tries
    await follower.end()

    assert follower.states == ["down: broker is unavailable: still"]


async def test_a_read_that_ends_by_itself_is_begun_again(store: MemoryStore) -> None:
    class Ending(MemoryConnector):
        async def read(self, *args: Any, **kwargs: Any) -> AsyncIterator[MessageBatch]:
            async for batch in super().read(*args, **kwargs):
                yield batch
                return

    publish(store, 1)
    follower = Follower(Ending("memory://x", store))
    await follower.until(numbers=[1])
    publish(store, 2)
    await follower.until(numbers=[1, 2])
    await follower.end()

    assert "down: the connector ended the read without saying why" in follower.states


async def test_a_bug_of_the_connector_is_not_hidden(store: MemoryStore) -> None:
    class Broken(MemoryConnector):
        async def connect(self) -> None:
            raise KeyError("a bug")

    follower = Follower(Broken("memory://x", store))
    with pytest.raises(KeyError, match="a bug"):
        await asyncio.wait_for(follower.task, 5)


async def test_closing_it_while_it_waits_ends_it_at_once(connector: MemoryConnector) -> None:
    follower = Follower(connector)
    await follower.until(state="reading")
    before = asyncio.all_tasks()
    follower.task.cancel()
    done, _ = await asyncio.wait({follower.task}, timeout=1)

    assert done
    assert follower.task.cancelled()
    assert asyncio.all_tasks() < before


async def test_closing_it_while_it_backs_off_ends_it_at_once(store: MemoryStore, connector: MemoryConnector) -> None:
    store.fail()
    follower = Follower(connector, how=Following(60, 60, 0))
    await follower.until(state="down")
    follower.task.cancel()
    done, _ = await asyncio.wait({follower.task}, timeout=1)

    assert done


async def test_the_next_batch_is_not_asked_for_before_the_caller_wants_it(
    store: MemoryStore, connector: MemoryConnector
) -> None:
    class Counting(MemoryConnector):
        given = 0

        async def read(self, *args: Any, **kwargs: Any) -> AsyncIterator[MessageBatch]:
            async for batch in super().read(*args, **kwargs):
                self.given += 1
                yield batch

    publish(store, *range(10))
    counting = Counting("memory://x", store)
    batches = follow(counting, "s", lambda: _start(Start("first")), name="test", max_batch=1)
    async with contextlib.aclosing(batches):
        await anext(batches)
        await asyncio.sleep(0.01)
        assert counting.given == 1
        await anext(batches)
        assert counting.given == 2


def test_following_a_stream_needs_no_framework() -> None:
    code = "import sys, pipeline.streams.follow; sys.exit('faststream' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def _start(start: Start) -> Start:
    return start
