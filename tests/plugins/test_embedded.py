"""What the embedded connector offers beyond the contract: its file, and what can go wrong with it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pipeline.connectors import BrokerRefused, Outgoing, Start, StreamBounds
from pipeline.errors import Unavailable
from pipeline_plugins.embedded import EmbeddedConnector


def event(number: int, body: bytes = b"{}") -> Outgoing:
    return Outgoing(body, "a.b", f"id-{number}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def connector(path: Path) -> AsyncIterator[EmbeddedConnector]:
    connector = EmbeddedConnector(f"embedded://{path}")
    await connector.connect()
    await connector.create_stream("s")
    yield connector
    await connector.close()


# The URL


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("embedded://events.db", "{cwd}/events.db"),
        ("embedded://.pipeline/events.db", "{cwd}/.pipeline/events.db"),
        ("embedded:///var/lib/pipeline/events.db", "/var/lib/pipeline/events.db"),
        ("embedded://with%20space/%C3%BC.db", "{cwd}/with space/ü.db"),
    ],
)
def test_the_url_names_a_file(url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert str(EmbeddedConnector(url).path) == path.format(cwd=tmp_path)


@pytest.mark.parametrize("url", ["embedded://", "embedded:///", "embedded://folder/"])
def test_a_url_without_file_is_refused(url: str) -> None:
    with pytest.raises(BrokerRefused, match="names no file"):
        EmbeddedConnector(url)


def test_a_url_with_options_is_refused() -> None:
    with pytest.raises(BrokerRefused, match="retain=7d"):
        EmbeddedConnector("embedded://events.db?retain=7d")


def test_it_is_the_default_and_loaded_through_its_entry_point() -> None:
    (entry,) = entry_points(group="pipeline", name="embedded")
    (connector,) = entry.load().pipeline_connectors()

    assert connector is EmbeddedConnector
    assert connector.default_url == "embedded://.pipeline/events.db"


async def test_making_a_connector_touches_no_file(path: Path) -> None:
    EmbeddedConnector(f"embedded://{path}")

    assert not path.exists()


async def test_folders_are_made(tmp_path: Path) -> None:
    connector = EmbeddedConnector(f"embedded://{tmp_path}/a/b/events.db")
    await connector.connect()
    await connector.close()

    assert (tmp_path / "a/b/events.db").is_file()


# Files that are not ours


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("dear diary, " * 1000)
    with pytest.raises(BrokerRefused, match=r"events\.db: it is not a SQLite file"):
        await EmbeddedConnector(f"embedded://{path}").connect()

    assert path.read_text() == "dear diary, " * 1000


async def test_another_program_s_database_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE streams (x)")
    before = path.read_bytes()
    with pytest.raises(BrokerRefused, match="is another program's database"):
        await EmbeddedConnector(f"embedded://{path}").connect()

    assert path.read_bytes() == before


async def test_another_version_s_file_is_refused(path: Path, connector: EmbeddedConnector) -> None:
    await connector.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(BrokerRefused, match="format 9, not 1"):
        await connector.connect()


async def test_a_damaged_file_is_refused(path: Path, connector: EmbeddedConnector) -> None:
    await connector.publish("s", [event(number, os.urandom(1000)) for number in range(100)])
    await connector.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 8192))

    with pytest.raises(BrokerRefused, match="it is damaged"):
        await _connect_and_look(connector)


async def _connect_and_look(connector: EmbeddedConnector) -> None:
    """Damage shows where SQLite comes across it."""
    await connector.connect()
    await connector.bounds("s")


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerRefused, match="can't be opened"):
        await EmbeddedConnector(f"embedded://{tmp_path}").connect()


async def test_a_path_through_a_file_is_refused(path: Path) -> None:
    path.touch()
    with pytest.raises(BrokerRefused, match=r"can't be opened: .*events\.db"):
        await EmbeddedConnector(f"embedded://{path}/events.db").connect()


# The file's life


async def test_a_deleted_file_is_noticed_by_readers_and_publishers(path: Path, connector: EmbeddedConnector) -> None:
    waiting = asyncio.ensure_future(anext(connector.read("s", Start("first"), name="test")))
    await asyncio.sleep(0.05)
    path.unlink()

    with pytest.raises(Unavailable, match="was deleted"):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(Unavailable, match="was deleted"):
        await connector.publish("s", [event(1)])
    with pytest.raises(Unavailable, match="was deleted"):
        await connector.probe()


async def test_a_replaced_file_is_noticed(path: Path, connector: EmbeddedConnector) -> None:
    waiting = asyncio.ensure_future(anext(connector.read("s", Start("first"), name="test")))
    await asyncio.sleep(0.05)
    path.with_name("other").touch()
    path.with_name("other").replace(path)

    with pytest.raises(Unavailable, match="was replaced"):
        await asyncio.wait_for(waiting, 5)


async def test_after_a_deletion_connecting_begins_an_empty_file(path: Path, connector: EmbeddedConnector) -> None:
    await connector.publish("s", [event(1)])
    path.unlink()
    await connector.connect()
    with pytest.raises(BrokerRefused, match="there is no stream 's'"):
        await connector.bounds("s")

    await connector.create_stream("s")
    assert await connector.bounds("s") == StreamBounds(None, None)
    await connector.publish("s", [event(2)])
    (message,) = await anext(connector.read("s", Start("first"), name="test"))
    assert message.id == "id-2"


async def test_everything_is_there_after_a_restart(path: Path, connector: EmbeddedConnector) -> None:
    await connector.publish("s", [event(number) for number in range(10)])
    await connector.store_offset("s", "g", 7)
    await connector.close()
    await connector.connect()

    assert await connector.bounds("s") == StreamBounds(0, 9)
    assert await connector.stored_offset("s", "g") == 7
