"""Events from a file of JSON lines, or from standard input, ready to be published."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.cli.json_input import parse_object
from pipeline.connectors import Outgoing
from pipeline.errors import UserError

__all__ = ["BATCH", "STDIN", "Batch", "outgoing", "parse", "read"]

STDIN = Path("-")
BATCH = 500
"""How many events are sent before their confirms are waited for."""
_FIELDS = ("routing_key", "id", "headers", "data")
_CHUNK_BYTES = 1 << 18


class Batch(NamedTuple):
    """Messages to publish together, and how many bytes of the file they took."""

    messages: Sequence[Outgoing]
    size: int


def outgoing(key: str, data: Mapping[str, Any], event_id: str | None, headers: Mapping[str, Any]) -> Outgoing:
    """A message: the data as JSON; a new UUID where it has no id. Raises `UserError`."""
    try:
        body = orjson.dumps(data)
    except TypeError as error:  # half of a surrogate pair, a number beyond 64 bits
        raise UserError(f"the data can't be published: {error}") from None
    return Outgoing(body, key, event_id or str(uuid.uuid4()), headers)


def read(path: Path, key: str | None, headers: Mapping[str, Any]) -> Iterator[Batch]:
    """The events of a file (``-`` is standard input), one a line, as they come; empty lines are left out.

    Args:
        path: The file.
        key: The routing key of all events; then each line is an event's data. Without it, each line is an object with
            ``routing_key`` and ``data``, and perhaps ``id`` and ``headers``.
        headers: Headers of all events; a line's own come on top.

    Raises:
        UserError: The file can't be read, or a line is wrong; names file and line.
    """
    name = "standard input" if path == STDIN else str(path)
    number = 0
    for lines in _lines(path):
        for start in range(0, len(lines), BATCH):
            part = lines[start : start + BATCH]
            messages = [
                parse(line, f"{name}:{place}", key, headers)
                for place, line in enumerate(part, number + 1)
                if line.strip()
            ]
            number += len(part)
            yield Batch(messages, sum(map(len, part)) + len(part))


def parse(line: bytes, where: str, key: str | None, headers: Mapping[str, Any]) -> Outgoing:
    """One line as a message. Raises `UserError`."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or _may_repeat_a_key(line, value):
        value = parse_object(line, where)
    if key is not None:
        return Outgoing(line.strip(), key, str(uuid.uuid4()), headers)
    if unknown := [name for name in value if name not in _FIELDS]:
        raise UserError(
            f"{where}: {unknown[0]!r} is none of {', '.join(_FIELDS)}; name a KEY where the lines are plain data"
        )
    own_key, data, own_headers = value.get("routing_key"), value.get("data", {}), value.get("headers", {})
    if not isinstance(own_key, str):
        raise UserError(f"{where}: it has no 'routing_key': add it, or name a KEY for all lines")
    if not isinstance(data, dict) or not isinstance(own_headers, dict):
        raise UserError(f"{where}: 'data' and 'headers' are JSON objects")
    if not isinstance(value.get("id", ""), str):
        raise UserError(f"{where}: 'id' is a text")
    return outgoing(own_key, data, value.get("id"), {**headers, **own_headers})


def _may_repeat_a_key(line: bytes, value: dict[str, Any]) -> bool:
    """Whether it is worth a closer look: each pair has a colon, and of a key that comes twice one pair is lost."""
    try:
        return rb"\u003" in line or line.count(b":") != orjson.dumps(value).count(b":")
    except TypeError:  # it nests deeper than can be written
        return True


def _lines(path: Path) -> Iterator[list[bytes]]:
    """All lines that could be read at a time, so that what comes slowly is not held back."""
    rest = b""
    with _opened(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield lines
    if rest:
        yield [rest]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file without a buffer of its own: reading gives what there is."""
    if path == STDIN:
        yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        return
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    with file:
        yield file
