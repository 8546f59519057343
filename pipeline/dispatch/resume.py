"""Where a source begins to read: its progress in SQL, else the broker's stored offset, else the configured start."""

from __future__ import annotations

import logging
from datetime import datetime

from pipeline.config.models import SourceTable
from pipeline.connectors import Connector, Start, StreamBounds
from pipeline.dispatch.window import Window
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import Commit, Progress

__all__ = ["Resume"]

_log = logging.getLogger("pipeline.resume")


class Resume:
    """Finds the position to read from, at the start and after every lost connection.

    A stream that was deleted and created anew has other chunks at the same offsets: its chunk timestamp at the last
    known offset tells. Then reading begins at the first message of the new incarnation, and a warning says so; the
    same where retention has cut the stream beyond the progress.

    Args:
        connector: Where the stream is.
        ledger: Where progress is.
        lease: The ownership of the source, with its progress.
        window: What was taken in since.
        table: The source's configuration.
    """

    def __init__(self, connector: Connector, ledger: Ledger, lease: Lease, window: Window, table: SourceTable) -> None:
        self._connector = connector
        self._ledger = ledger
        self._lease = lease
        self._window = window
        self._table = table

    async def start(self) -> Start:
        """The position to read from now.

        Raises:
            Unavailable: The broker or the database can't be asked.
            BrokerRefused: There is no such stream.
        """
        window = self._window
        if window.last >= 0:
            return await self._after(window.last, window.last_timestamp)
        if self._lease.started:
            return Start("first")
        return await self._first_start()

    async def _after(self, offset: int, timestamp: int | None) -> Start:
        stream = self._table.stream
        there = await self._connector.timestamp_at(stream, offset)
        if there is not None and timestamp in (None, there):
            return Start("offset", offset + 1)
        bounds = await self._connector.bounds(stream)
        if there is None and self._is_trimmed(bounds, offset):
            _log.warning(
                "stream %s keeps messages from offset %s on, and this group has come to %d: what lies between was "
                "removed by retention before it was read; going on at the first message that is left",
                stream, bounds.first, offset,
            )  # fmt: skip
            return Start("first")
        if there is None and timestamp is None:
            return Start("offset", offset + 1)  # a start position that was noted before any message came
        await self._begin_anew(stream)
        return Start("first")

    @staticmethod
    def _is_trimmed(bounds: StreamBounds, offset: int) -> bool:
        return bounds.first is not None and bounds.first > offset

    async def _begin_anew(self, stream: str) -> None:
        _log.warning("stream %s was deleted and created anew: reading it from its first message", stream)
        # What is in flight belongs to the old incarnation: let it be committed before offsets begin again.
        await self._window.wait_idle()
        await self._ledger.new_incarnation(self._lease)
        self._window.reset(self._lease.progress)

    async def _first_start(self) -> Start:
        table = self._table
        stored = await self._connector.stored_offset(table.stream, table.group)
        if stored is not None:
            return Start("offset", stored + 1)
        if isinstance(table.start, datetime):
            return Start("time", int(table.start.timestamp() * 1000))
        if isinstance(table.start, int):
            return Start("offset", table.start)
        if table.start == "next":
            await self._note_end()
        return Start(table.start)

    async def _note_end(self) -> None:
        """Keep where the stream ends now, so that a crash before the first commit skips nothing that comes after."""
        bounds = await self._connector.bounds(self._table.stream)
        if bounds.last is not None:
            await self._ledger.commit(self._lease, Commit(Progress(bounds.last), {}))
