"""Where a source begins to read: its progress in SQL, else the broker's stored offset, else the configured start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Final, cast

from pipeline.config.models import SourceTable
from pipeline.connectors import Connector, Message, MessageBatch, Start, StreamBounds
from pipeline.dispatch.window import Window
from pipeline.errors import Unavailable
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import Commit, Progress

__all__ = ["Resume"]

_MARGIN: Final = 10 * 60_000
"""Milliseconds by which the clocks of a broker's nodes may differ, before and after a restore."""
_ANSWER_SECONDS: Final = 30.0
_log = logging.getLogger("pipeline.resume")


class Resume:
    """Finds the position to read from, at the start and after every lost connection.

    A stream that was deleted and created anew has other chunks at the same offsets: its chunk timestamp at the last
    known offset tells. Then reading begins at the first message of the new incarnation, and a warning says so; the
    same where retention has cut the stream beyond the progress.

    Where such a stream holds messages that are older than the progress, it is the same one and has lost its end, as by
    a restore. Those are finished: reading goes on at the first of about the progress's time. It is a new incarnation
    all the same, as other messages lie now at offsets that are finished, and must not get the ids of the old ones.

    Args:
        connector: Where the stream is.
        ledger: Where progress is.
        lease: The ownership of the source, with its progress.
        window: What was taken in since.
        table: The source's configuration.
        on_lost: Called with the number of offsets that retention removed before they were read.
    """

    def __init__(
        self,
        connector: Connector,
        ledger: Ledger,
        lease: Lease,
        window: Window,
        table: SourceTable,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._connector = connector
        self._ledger = ledger
        self._lease = lease
        self._window = window
        self._table = table
        self._on_lost = on_lost
        self._told_to = -1  # up to here what was lost has been told; a read that fails at once is asked for again

    async def start(self) -> Start:
        """The position to read from now.

        Raises:
            Unavailable: The broker or the database can't be asked.
            BrokerRefused: There is no such stream.
        """
        window = self._window
        if window.last >= 0 or window.last_timestamp is not None:
            return await self._after(window.last, window.last_timestamp)
        if self._lease.started:
            return await self._from_the_beginning()
        return await self._first_start()

    async def _from_the_beginning(self) -> Start:
        """Where not even the stream's first message is finished, all that retention has removed is lost, too."""
        first = (await self._connector.bounds(self._table.stream)).first
        if first is not None:
            self._tell_lost(-1, first)
        return Start("first")

    async def _after(self, offset: int, timestamp: int | None) -> Start:
        stream = self._table.stream
        there = await self._connector.timestamp_at(stream, offset) if offset >= 0 else None
        if await self._is_known(offset, timestamp, there):
            return await self._unless_cut(offset, timestamp, Start("offset", offset + 1))
        bounds = await self._connector.bounds(stream)
        if there is None and bounds.first is not None and bounds.first > offset + 1:
            self._tell_lost(offset, bounds.first)
            return await self._unless_cut(offset, timestamp, Start("first"))
        is_trimmed = bounds.first == offset + 1 or (timestamp is None and (bounds.last or -1) > offset)
        if there is None and offset >= 0 and is_trimmed:  # all that was removed was finished, or never held a message
            return await self._unless_cut(offset, timestamp, Start("offset", offset + 1))
        if timestamp is not None and bounds.last is not None and (there is None or bounds.last <= offset):
            await self._refuse_to_lag(bounds.last, offset, timestamp)
        return await self._begin_anew(bounds, offset, timestamp)

    async def _is_known(self, offset: int, timestamp: int | None, there: int | None) -> bool:
        """Whether the chunk that the progress remembers is where it was: at its offset, or right behind it.

        Behind it where nothing is finished yet (`Window.begin`), or the stream had lost its end.
        """
        if timestamp is None or there == timestamp:
            return there is not None
        return await self._connector.timestamp_at(self._table.stream, offset + 1) == timestamp

    async def _unless_cut(self, offset: int, timestamp: int | None, start: Start) -> Start:
        """Go on there; but where the stream has lost what is finished beyond it, other messages are to come there."""
        ahead, newest = self._window.done_to_come
        if not ahead or newest is None:
            return start
        stream, end = self._table.stream, ahead[-1][1]
        there = await self._connector.timestamp_at(stream, end)
        if there == newest:
            return start
        bounds = await self._connector.bounds(stream)
        if bounds.last is None or bounds.first is None or bounds.first > end:
            return start
        if there is None:
            await self._refuse_to_lag(bounds.last, end, newest)
        found = await self._read_one(Start("time", newest - _MARGIN))
        left = tuple((first, min(last, found.offset - 1)) for first, last in ahead if first < found.offset)
        await self._go_on(Progress(offset, timestamp, left), end, newest, found)
        return start

    def _lost_between(self, offset: int, first: int) -> int:
        """How many offsets between these two no earlier run has finished."""
        finished = sum(
            max(0, min(last, first - 1) - max(begin, offset + 1) + 1) for begin, last in self._lease.progress.ahead
        )
        return first - offset - 1 - finished

    def _tell_lost(self, offset: int, first: int) -> None:
        offset = max(offset, self._told_to)
        if first <= offset + 1:
            return
        self._told_to = first - 1
        lost = self._lost_between(offset, first)
        _log.error(
            "stream %s keeps messages from offset %d on, and this group has come to %s: %d offsets between were "
            "removed by retention before they were read, and are lost; going on at the first message that is left. "
            "Let the stream keep more (x-max-age, x-max-length-bytes)",
            self._table.stream, first, offset if offset >= 0 else "none", lost,
        )  # fmt: skip
        self._on_lost(lost)

    async def _refuse_to_lag(self, last: int, offset: int, timestamp: int) -> None:
        """Wait where a stream that is too short holds nothing newer than the progress: a replica that lags behind.

        The same where that can't be told, as its end has changed since.
        """
        newest = await self._connector.timestamp_at(self._table.stream, last)
        if newest is None or newest <= timestamp:
            raise Unavailable(
                "broker", f"stream {self._table.stream} ends at {last}, and this group has come to {offset}"
            )

    async def _begin_anew(self, bounds: StreamBounds, offset: int, timestamp: int | None) -> Start:
        """Begin a new incarnation: at its first message, or behind what is left of the old one."""
        stream = self._table.stream
        found = (
            await self._behind_what_is_left(timestamp) if bounds.last is not None and timestamp is not None else None
        )
        if found is not None and timestamp is not None:
            await self._go_on(Progress(found.offset - 1, found.timestamp), offset, timestamp, found)
            return Start("offset", found.offset)
        _log.warning("stream %s was deleted and created anew: reading it from its first message", stream)
        await self._new_incarnation(Progress())
        return Start("first")

    async def _go_on(self, progress: Progress, offset: int, timestamp: int, found: Message) -> None:
        """Begin a new incarnation of a stream that has lost its end, amid its messages, and say so."""
        await self._new_incarnation(progress)
        _log.warning(
            "stream %s has lost its end, as one that was restored from a copy: this group had finished offset %d, "
            "written at %s, and other messages lie there now. What lies from offset %d on, written at %s, is read as "
            "new: it is the first since %d minutes before that time, and what was handled of those minutes may be "
            "handled once more",
            self._table.stream, offset, _time(timestamp), found.offset, _time(found.timestamp), _MARGIN // 60_000,
        )  # fmt: skip

    async def _new_incarnation(self, progress: Progress) -> None:
        # What is in flight belongs to the old incarnation: let it be committed before offsets begin again.
        await self._window.wait_idle()
        await self._ledger.new_incarnation(self._lease, progress)
        self._window.reset(progress)
        self._told_to = -1

    async def _behind_what_is_left(self, timestamp: int) -> Message | None:
        """Where to go on in a stream that has lost its end; None where all that it holds is newer than this."""
        since = timestamp - _MARGIN
        if (await self._read_one(Start("first"))).timestamp >= since:
            return None
        return await self._read_one(Start("time", since))

    async def _read_one(self, start: Start) -> Message:
        """The first message from there on. Raises `Unavailable` where none comes."""
        table = self._table
        batches = self._connector.read(table.stream, start, name=f"{table.group} resume", max_batch=1)
        with contextlib.suppress(TimeoutError, StopAsyncIteration):
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                contextlib.aclosing(cast("AsyncGenerator[MessageBatch, None]", batches)) as reading,
            ):
                return (await anext(reading))[0]
        raise Unavailable("broker", f"stream {table.stream} delivers nothing from its {start.at} {start.value or ''}")

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
            return await self._note(await self._end())
        if table.start == "last" and await self._end() == Progress():
            return await self._note(Progress())  # there is no last chunk yet: all that comes is to be read
        return Start(table.start)

    async def _end(self) -> Progress:
        """Where the stream ends now."""
        stream = self._table.stream
        bounds = await self._connector.bounds(stream)
        if bounds.last is None:
            return Progress()
        return Progress(bounds.last, await self._connector.timestamp_at(stream, bounds.last))

    async def _note(self, end: Progress) -> Start:
        """Keep where the stream ended, so that a crash before the first commit skips nothing that comes after."""
        await self._ledger.commit(self._lease, Commit(end, {}))
        self._window.reset(end)
        return Start("offset", end.prefix + 1)


def _time(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec="seconds")
