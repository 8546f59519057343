"""The embedded broker among processes: what one publishes another reads, and what was confirmed survives kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pipeline.connectors import BrokerRefused, Message, Outgoing, Start
from pipeline_plugins.embedded import EmbeddedConnector

pytestmark = pytest.mark.slow  # each starts processes

Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]
SCRIPT = Path(__file__).with_name("embedded_process.py")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"embedded://{tmp_path}/events.db"


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Start another process at the broker; it is killed at the end."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read_until(connector: EmbeddedConnector, done: Callable[[list[Message]], bool]) -> list[Message]:
    messages: list[Message] = []
    async with asyncio.timeout(30):
        async for batch in connector.read("s", Start("first"), name="test"):
            messages += batch
            if done(messages):
                return messages
    raise AssertionError


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()


@pytest.fixture
async def connector(url: str) -> AsyncIterator[EmbeddedConnector]:
    connector = EmbeddedConnector(url)
    await connector.connect()
    await connector.create_stream("s")
    yield connector
    await connector.close()


async def test_what_another_process_publishes_is_read_within_a_tenth_of_a_second(
    connector: EmbeddedConnector, url: str, spawn: Spawn
) -> None:
    waits: list[float] = []

    async def read() -> None:
        async for batch in connector.read("s", Start("first"), name="test"):
            now = time.time_ns()
            waits.extend((now - int(message.body)) / 1e9 for message in batch)
            if len(waits) == 50:
                return

    reading = asyncio.create_task(read())
    await spawn("publish", url, "s", "0", "50")
    await asyncio.wait_for(reading, 30)

    assert sorted(waits)[25] < 0.1


async def test_many_processes_create_and_publish_at_once(url: str, spawn: Spawn) -> None:
    processes = [await spawn("publish", url, "s", str(each * 1000), "100") for each in range(4)]
    for process in processes:
        await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
    connector = EmbeddedConnector(url)
    await connector.connect()

    messages = await read_until(connector, lambda messages: len(messages) == 400)
    await connector.close()

    assert [message.offset for message in messages] == list(range(400))
    for each in range(4):
        own = [int(message.id or "") for message in messages if int(message.id or "") // 1000 == each]
        assert own == list(range(each * 1000, each * 1000 + 100))


async def test_what_was_confirmed_survives_kill_9(connector: EmbeddedConnector, url: str, spawn: Spawn) -> None:
    chance = random.Random(7)
    confirmed = 0
    for round_ in range(5):
        stream = f"s{round_}"
        process = await spawn("forever", url, stream)
        await line(process)
        await asyncio.sleep(chance.uniform(0.05, 0.3))
        process.kill()
        output, _ = await process.communicate()
        last = int(output.split()[-1])
        confirmed += last + 1

        read: list[str | None] = []
        batches = connector.read(stream, Start("first"), name="test")
        while len(read) < last + 1:
            read += [message.id for message in await asyncio.wait_for(anext(batches), 10)]
        await batches.aclose()  # type: ignore[attr-defined]

        assert read[: last + 1] == [str(number) for number in range(last + 1)]
        assert len(read) <= last + 2, "at most the publish that was under way is there beside them"
    assert confirmed > 20


async def test_a_second_process_that_reads_is_refused_and_told_the_first_one_s_pid(
    connector: EmbeddedConnector, url: str, spawn: Spawn
) -> None:
    await connector.publish("s", [Outgoing(b"0", "a.b", "0")])
    reader = await spawn("read", url, "s")
    assert [await line(reader), await line(reader)] == ["connected", "1"]

    with pytest.raises(BrokerRefused, match=f"is being read by process {reader.pid}: stop it"):
        await read_until(connector, bool)
    with pytest.raises(BrokerRefused, match=str(reader.pid)):
        await read_until(connector, bool)


async def test_a_second_process_may_publish_while_the_first_reads(
    connector: EmbeddedConnector, url: str, spawn: Spawn
) -> None:
    reader = await spawn("read", url, "s")
    assert await line(reader) == "connected"
    await connector.publish("s", [Outgoing(b"0", "a.b", "0")])

    assert await line(reader) == "1"


async def test_a_killed_reader_leaves_no_lock(connector: EmbeddedConnector, url: str, spawn: Spawn) -> None:
    await connector.publish("s", [Outgoing(b"0", "a.b", "0")])
    reader = await spawn("read", url, "s")
    assert [await line(reader), await line(reader)] == ["connected", "1"]
    reader.send_signal(signal.SIGKILL)
    await reader.wait()

    assert len(await read_until(connector, bool)) == 1


async def test_a_reader_that_ends_lets_others_in(connector: EmbeddedConnector, url: str, spawn: Spawn) -> None:
    await connector.publish("s", [Outgoing(b"0", "a.b", "0")])
    assert len(await read_until(connector, bool)) == 1
    reader = await spawn("read", url, "s")

    assert [await line(reader), await line(reader)] == ["connected", "1"]


async def test_a_file_that_another_runner_has_claimed_is_refused(
    connector: EmbeddedConnector, url: str, spawn: Spawn
) -> None:
    runner = await spawn("claim", url)
    assert await line(runner) == "claimed"

    with pytest.raises(BrokerRefused, match=f"process {runner.pid}"):
        await connector.claim()
    with pytest.raises(BrokerRefused, match=f"process {runner.pid}"):
        await read_until(connector, bool)
    await connector.publish("s", [Outgoing(b"0", "a.b", "0")])
    runner.kill()
    await runner.wait()
    await connector.claim()


async def test_a_runner_may_claim_before_there_is_a_file(url: str, spawn: Spawn) -> None:
    runner = EmbeddedConnector(url)
    await runner.claim()
    other = await spawn("claim", url)

    assert await line(other) == ""
    assert await other.wait() == 1
    await runner.close()
    assert await line(await spawn("claim", url)) == "claimed"


async def test_a_lock_that_was_deleted_with_its_folder_is_taken_again(tmp_path: Path, spawn: Spawn) -> None:
    url = f"embedded://{tmp_path}/folder/events.db"
    runner = EmbeddedConnector(url)
    await runner.claim()
    shutil.rmtree(tmp_path / "folder")
    await runner.connect()
    await runner.create_stream("s")
    await runner.publish("s", [Outgoing(b"0", "a.b", "0")])
    batches = runner.read("s", Start("first"), name="test")
    await anext(batches)

    assert await line(await spawn("claim", url)) == "", "it is refused"
    await batches.aclose()  # type: ignore[attr-defined]
    await runner.close()


async def test_the_lock_file_names_the_reader(connector: EmbeddedConnector, tmp_path: Path) -> None:
    await connector.publish("s", [Outgoing(b"0", "a.b", "0")])
    batches = connector.read("s", Start("first"), name="test")
    await anext(batches)

    assert (tmp_path / "events.db.lock").read_text() == f"{os.getpid()}\n"
    await batches.aclose()  # type: ignore[attr-defined]
