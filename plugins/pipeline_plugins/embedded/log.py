"""The log as SQL: streams, messages and the offsets of groups in one SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from pipeline import Unavailable
from pipeline.connectors import BrokerRefused, Message, MessageBatch, Start, StreamBounds
from pipeline_plugins.embedded.faults import explain
from pipeline_plugins.embedded.file import open_file, transaction

__all__ = ["Append", "Log", "Row"]

MAX_BATCH_BYTES: Final = 8 * 1024 * 1024  # bounds memory where messages are large; one message is always taken

Row = tuple[str, str, str | None, str | None, bytes]
"""A message to append: routing key, id, headers as JSON, content type, body."""


class Append(NamedTuple):
    """One call of `publish`: its messages are one chunk."""

    stream: str
    rows: Sequence[Row]


class Log:
    """A connection to the file; every method blocks, and is called by one thread at a time.

    Args:
        path: The file; created with its folders where it does not exist.
        durable: Whether a commit returns only when it is on the disk, so that it survives a loss of power.

    Raises:
        BrokerRefused: The file is not ours, is damaged, or can't be opened.
        Unavailable: Another process holds it.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        with self._explained():
            self._db = open_file(path, durable=durable)
            try:
                found = path.stat()
            except BaseException:
                self._db.close()
                raise
        self._identity = (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def verify(self) -> None:
        """Raise `Unavailable` where the path no longer leads to the file that is open."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise Unavailable("broker", f"{self.path} was deleted while it was in use") from None
        if (found.st_dev, found.st_ino) != self._identity:
            raise Unavailable("broker", f"{self.path} was replaced by another file while it was in use")

    def probe(self) -> None:
        """Return where the file can be read."""
        with self._explained():
            self._db.execute("SELECT count(*) FROM streams").fetchone()

    # Streams

    def create(self, stream: str) -> None:
        """Create the stream where it does not exist yet."""
        with self._explained():
            self._db.execute("INSERT INTO streams (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (stream,))

    def delete(self, stream: str) -> None:
        """Delete the stream with all that it holds."""
        with self._explained(), transaction(self._db):
            number = self.stream_id(stream)
            for table, column in (("messages", "stream"), ("offsets", "stream"), ("streams", "id")):
                self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))  # noqa: S608 - our own names

    def stream_id(self, stream: str) -> int:
        """The stream's number in this file. Raises `BrokerRefused` where there is no such stream."""
        return int(self._stream(stream)[0])

    def bounds(self, stream: str) -> StreamBounds:
        """What the stream holds."""
        with self._explained():
            number = self.stream_id(stream)
            found = self._db.execute("SELECT min(offset), max(offset) FROM messages WHERE stream = ?", (number,))
            return StreamBounds(*found.fetchone())

    def timestamp_at(self, stream: str, offset: int) -> int | None:
        """When the message at this offset was published; None where there is none."""
        with self._explained():
            found = self._at(self.stream_id(stream), offset)
            return found[1] if found and found[0] == offset else None

    # Reading

    def position(self, stream: str, start: Start) -> int | None:
        """The offset that reading begins at; None where the stream has not reached that time yet."""
        with self._explained():
            number, next_offset, _ = self._stream(stream)
            match start.at:
                case "first":
                    return 0
                case "next":
                    return next_offset
                case "offset":
                    return start.value
                case "last":
                    query = "SELECT chunk FROM messages WHERE stream = ? ORDER BY offset DESC LIMIT 1"
                    found = self._db.execute(query, (number,)).fetchone()
                    return found[0] if found else next_offset
                case "time":
                    return self._since(number, next_offset, start.value)

    def take(self, number: int, position: int, most: int) -> MessageBatch:
        """At most so many messages of a stream from this offset on, and not many more bytes than are good.

        Raises:
            BrokerRefused: The stream is gone.
        """
        batch: MessageBatch = []
        size = 0
        with self._explained():
            rows = self._db.execute(
                "SELECT offset, timestamp, body, routing_key, id, headers, content_type FROM messages"
                " WHERE stream = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (number, position, most),
            )
            for offset, timestamp, body, routing_key, id_, headers, content_type in rows:
                bytes_ = len(body) + len(headers or "")
                size += bytes_
                if size > MAX_BATCH_BYTES and batch:
                    break
                values = orjson.loads(headers) if headers else {}
                batch.append(Message(offset, timestamp, body, routing_key, id_, values, content_type, None, bytes_))
            rows.close()  # an open cursor would hold the snapshot, and the write-ahead log with it
            if not batch and not self._db.execute("SELECT 1 FROM streams WHERE id = ?", (number,)).fetchone():
                raise BrokerRefused(f"the stream was deleted from {self.path} while it was read")
        return batch

    # Writing

    def append(self, calls: Sequence[Append]) -> list[Exception | None]:
        """Write many chunks in one transaction; per chunk None, or why it was not written.

        Raises:
            Unavailable: None of them was written, or it is not known.
        """
        with self._explained(), transaction(self._db):
            return [self._append(call) for call in calls]

    def _append(self, call: Append) -> Exception | None:
        """Write one chunk; timestamps never fall, whatever the clock does."""
        try:
            number, first, before = self._stream(call.stream)
        except BrokerRefused as error:
            return error
        timestamp = max(time.time_ns() // 1_000_000, before)
        self._db.executemany(
            "INSERT INTO messages (stream, offset, chunk, timestamp, routing_key, id, headers, content_type, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((number, offset, first, timestamp, *row) for offset, row in enumerate(call.rows, first)),
        )
        self._db.execute(
            "UPDATE streams SET next_offset = ?, last_timestamp = ? WHERE id = ?",
            (first + len(call.rows), timestamp, number),
        )
        return None

    # Offsets of groups

    def stored_offset(self, stream: str, group: str) -> int | None:
        """The offset that the group stored last."""
        with self._explained():
            query = "SELECT offset FROM offsets WHERE stream = ? AND consumer_group = ?"
            found = self._db.execute(query, (self.stream_id(stream), group)).fetchone()
            return found[0] if found else None

    def store_offset(self, stream: str, group: str, offset: int) -> None:
        """Keep the group's offset."""
        with self._explained():
            self._db.execute(
                "INSERT INTO offsets (stream, consumer_group, offset) VALUES (?, ?, ?)"
                " ON CONFLICT (stream, consumer_group) DO UPDATE SET offset = excluded.offset",
                (self.stream_id(stream), group, offset),
            )

    # Beneath

    def _stream(self, stream: str) -> tuple[int, int, int]:
        query = "SELECT id, next_offset, last_timestamp FROM streams WHERE name = ?"
        found: tuple[int, int, int] | None = self._db.execute(query, (stream,)).fetchone()
        if found is None:
            raise BrokerRefused(
                f"there is no stream {stream!r} in {self.path}: create it first ([broker] create_streams = true)"
            )
        return found

    def _at(self, number: int, offset: int) -> tuple[int, int] | None:
        """Offset and timestamp of the first message at or after this offset."""
        query = "SELECT offset, timestamp FROM messages WHERE stream = ? AND offset >= ? ORDER BY offset LIMIT 1"
        found: tuple[int, int] | None = self._db.execute(query, (number, offset)).fetchone()
        return found

    def _since(self, number: int, end: int, timestamp: int) -> int | None:
        """The first offset of this time or later, by bisection: timestamps never fall."""
        low, high = 0, end
        while low < high:
            middle = (low + high) // 2
            found = self._at(number, middle)
            if found is None or found[1] >= timestamp:
                high = middle
            else:
                low = found[0] + 1
        return low if low < end else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise explain(self.path, error) from error
