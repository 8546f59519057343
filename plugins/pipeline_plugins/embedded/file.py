"""Opens the broker's file: claims a new one, and refuses one that is not ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pipeline.connectors import BrokerRefused

__all__ = ["BUSY_TIMEOUT", "open_file", "pragma", "transaction"]

APPLICATION: Final = 0x70697065  # "pipe": marks the file as ours, so that nobody else's database is written to
VERSION: Final = 1
BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for another process's transaction."""

_SCHEMA: Final = """
CREATE TABLE streams (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    next_offset INTEGER NOT NULL DEFAULT 0,
    last_timestamp INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE messages (
    stream INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    routing_key TEXT,
    id TEXT,
    headers TEXT,
    content_type TEXT,
    body BLOB NOT NULL,
    PRIMARY KEY (stream, offset)
);
CREATE TABLE offsets (
    stream INTEGER NOT NULL,
    consumer_group TEXT NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (stream, consumer_group)
);
"""


def open_file(path: Path, *, durable: bool) -> sqlite3.Connection:
    """A connection to the file, which is created with its folders where it does not exist.

    Args:
        path: The file.
        durable: Whether a commit returns only when it is on the disk, so that it survives a loss of power.

    Raises:
        BrokerRefused: The file is not ours.
        sqlite3.Error: It can't be opened; see `faults`.
        OSError: Its folder can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _prepare(database, path)
        pragma(database, f"synchronous = {'FULL' if durable else 'NORMAL'}")
    except BaseException:
        database.close()
        raise
    return database


def pragma(database: sqlite3.Connection, statement: str) -> Any:
    """What this PRAGMA answers; None where it answers nothing."""
    found = database.execute(f"PRAGMA {statement}").fetchone()
    return found[0] if found else None


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Take the write lock at once, so that waiting for it can't fail half-way; roll back what fails."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    if pragma(database, "application_id") != APPLICATION:
        _claim(database, path)
    elif (version := pragma(database, "user_version")) != VERSION:
        raise BrokerRefused(
            f"the embedded broker {path} was written by another version of this program (format {version}, "
            f"not {VERSION}): use that version, or move the file away"
        )
    _share(database, path)


def _claim(database: sqlite3.Connection, path: Path) -> None:
    with transaction(database):
        if pragma(database, "application_id") == APPLICATION:
            return  # another process was faster
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise BrokerRefused(f"{path} is another program's database: name another file in [broker] url")
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        pragma(database, f"application_id = {APPLICATION}")
        pragma(database, f"user_version = {VERSION}")


def _share(database: sqlite3.Connection, path: Path) -> None:
    """Let one process write while others read; SQLite does not wait for others when it changes this mode."""
    until = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            mode = pragma(database, "journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise BrokerRefused(f"the embedded broker {path} can't be shared on this file system: use a local disk")
