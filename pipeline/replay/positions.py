"""Positions in a stream as people name them, and the range of offsets between two of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias, cast

from pipeline.connectors import Connector, MessageBatch, Start, StreamBounds
from pipeline.errors import UserError
from pipeline.moments import WRITTEN, moment

__all__ = ["Position", "Span", "order", "parse_position", "resolve", "text_of"]

Position: TypeAlias = "Literal['first', 'now'] | int | datetime"
"""``first`` (the oldest message that is kept), ``now`` (the newest one), an offset, or an aware time."""

_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Span:
    """A range of offsets, both ends included; empty where `last` is less than `first`.

    Attributes:
        first: The first offset.
        last: The last offset.
        note: What is not as it was asked for, or why the range is empty; for people.
    """

    first: int
    last: int
    note: str = ""


def parse_position(text: str, end: Literal["from", "to"]) -> Position:
    """The position that a text names.

    Args:
        text: ``first`` (where a range begins), ``now`` (where it ends), an offset, or a time as `moment` takes it.
        end: Which end of the range it is; also the option's name, for the message.

    Raises:
        UserError: It is none of these.
    """
    word = "first" if end == "from" else "now"
    if text == word:
        return cast("Position", text)
    if text.isascii() and text.isdecimal():
        return _offset(int(text), end)
    try:
        return moment(text)
    except UserError:
        raise UserError(
            f"--{end} {text!r} is no place in a stream: write '{word}', an offset such as 1200, {WRITTEN}"
        ) from None


def _offset(offset: int, end: str) -> int:
    if not 0 <= offset <= _LARGEST:
        raise UserError(f"--{end} {offset}: offsets go from 0 to {_LARGEST}")
    return offset


def _aware(time: datetime, end: str) -> datetime:
    if time.tzinfo is None:
        text = time.isoformat()
        raise UserError(f"--{end} {text} has no zone: write {text}Z for UTC, or an offset, as in {text}+02:00")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise UserError(f"--{end} {time.isoformat()} is out of range: there is no such time in UTC") from None


def text_of(position: Position) -> str:
    """The position as one text, the same for every way in which it can be written."""
    return position.isoformat() if isinstance(position, datetime) else str(position)


def order(begin: Position, end: Position) -> tuple[Position, Position]:
    """Both ends of a range, checked.

    Raises:
        UserError: An end can't be an end, a time has no zone, or the range ends before it begins.
    """
    if begin == "now" or end == "first":
        raise UserError("a range goes from 'first', an offset or a time, to an offset, a time or 'now'")
    begin, end = _checked(begin, "from"), _checked(end, "to")
    turned = (
        begin >= end
        if isinstance(begin, datetime) and isinstance(end, datetime)
        else isinstance(begin, int) and isinstance(end, int) and begin > end
    )
    if turned:
        raise UserError(f"--from {text_of(begin)} does not lie before --to {text_of(end)}")
    return begin, end


def _checked(position: Position, end: Literal["from", "to"]) -> Position:
    if isinstance(position, datetime):
        return _aware(position, end)
    return position if isinstance(position, str) else _offset(position, end)


async def resolve(connector: Connector, stream: str, begin: Position, end: Position) -> Span:
    """The offsets between two positions, as the stream is now: `end` is fixed by it.

    A time as the beginning takes in the messages of that time; as the end it leaves them out.

    Args:
        connector: Connected.
        stream: The stream's name.
        begin: Where the range begins.
        end: Where it ends.

    Raises:
        UserError: No message can lie there: it ends before it begins, lies beyond the stream's end, or was removed by
            retention; or there is no such stream.
        Unavailable: The broker can't be reached.
    """
    bounds = await connector.bounds(stream)
    if bounds.first is None or bounds.last is None:
        return Span(0, -1, f"stream {stream} is empty")
    first = await _first(connector, stream, begin, bounds)
    last = await _last(connector, stream, end, bounds)
    if first > bounds.last:
        if isinstance(begin, int):
            raise UserError(f"--from {begin}: stream {stream} ends at offset {bounds.last}")
        return Span(first, bounds.last, f"stream {stream} holds nothing since {text_of(begin)}")
    if last < bounds.first:
        where = f"--to {text_of(end)}: stream {stream} keeps messages from offset {bounds.first} on"
        raise UserError(f"{where}, {await _time_of(connector, stream, bounds.first)}; what lay before it was removed")
    if last < first and isinstance(begin, int) != isinstance(end, int):
        raise UserError(
            f"--from {text_of(begin)} is offset {first}, which does not lie before --to {text_of(end)}, offset {last}"
        )
    if last < first:
        return Span(first, last, f"stream {stream} holds nothing from {text_of(begin)} to {text_of(end)}")
    if first < bounds.first:
        note = f"stream {stream} keeps messages from offset {bounds.first} on: {first} to {bounds.first - 1} are gone"
        return Span(bounds.first, last, note)
    return Span(first, last)


async def _first(connector: Connector, stream: str, begin: Position, bounds: StreamBounds) -> int:
    if isinstance(begin, datetime):
        return await _since(connector, stream, begin, bounds)
    return begin if isinstance(begin, int) else bounds.first or 0


async def _last(connector: Connector, stream: str, end: Position, bounds: StreamBounds) -> int:
    newest = -1 if bounds.last is None else bounds.last
    if isinstance(end, datetime):
        return await _since(connector, stream, end, bounds) - 1
    return min(end, newest) if isinstance(end, int) else newest


async def _since(connector: Connector, stream: str, time: datetime, bounds: StreamBounds) -> int:
    """The first offset of this time or later; the one after the stream's last where there is none yet."""
    newest = -1 if bounds.last is None else bounds.last
    wanted = int(time.timestamp() * 1000)
    at_end = await connector.timestamp_at(stream, newest)
    if at_end is None or at_end < wanted:
        return newest + 1  # reading from there would wait for a message that may never come
    batches = connector.read(stream, Start("time", wanted), name="pipeline replay", max_batch=1)
    async with contextlib.aclosing(cast("AsyncGenerator[MessageBatch, None]", batches)) as reading:
        async for batch in reading:
            return min(batch[0].offset, newest + 1)
    return newest + 1


async def _time_of(connector: Connector, stream: str, offset: int) -> str:
    timestamp = await connector.timestamp_at(stream, offset)
    if timestamp is None:
        return "its first"
    return f"of {datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec='seconds')}"
