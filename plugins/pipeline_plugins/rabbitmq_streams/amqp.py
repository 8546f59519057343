"""AMQP 1.0 messages as they lie in a stream, read into `Message`: batch-first, and never raising.

A message is a row of sections (AMQP 1.0, part 3.2), each a described value: ``00 53 <code>``, then a list, a map or
bytes. What repeats from message to message (annotations, the tail of the properties, headers) is parsed once and
remembered by its bytes, which is what makes this several times as fast as a general decoder.

Nothing that a message says of its own sizes, counts or depth is believed: the time and memory that reading takes are
bounded by the message's bytes, and what a message may spell in few bytes by limits of their own.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, TypeVar

from pipeline.connectors import Message
from pipeline_plugins.rabbitmq_streams.amqp_values import MalformedError, Values, read_map

__all__ = ["MessageReader"]

_HEADER: Final = 0x70
_DELIVERY_ANNOTATIONS: Final = 0x71
_ANNOTATIONS: Final = 0x72
_PROPERTIES: Final = 0x73
_APPLICATION_PROPERTIES: Final = 0x74
_DATA: Final = 0x75
_SEQUENCE: Final = 0x76
_VALUE: Final = 0x77
_FOOTER: Final = 0x78
_CODES: Final = {
    "amqp:header:list": _HEADER,
    "amqp:delivery-annotations:map": _DELIVERY_ANNOTATIONS,
    "amqp:message-annotations:map": _ANNOTATIONS,
    "amqp:properties:list": _PROPERTIES,
    "amqp:application-properties:map": _APPLICATION_PROPERTIES,
    "amqp:data:binary": _DATA,
    "amqp:amqp-sequence:list": _SEQUENCE,
    "amqp:amqp-value:*": _VALUE,
    "amqp:footer:map": _FOOTER,
}
_REMEMBERED: Final = 1024 * 1024
"""How many bytes of different sections of a kind are remembered; then the memory starts afresh. What they spell may
take sixty times as much, where they are made for that."""
_LEAST_REMEMBERED: Final = 256
"""What a short section counts as, so that there are 4,096 at most."""
_LONGEST_REMEMBERED: Final = 2048
"""The longest section that is remembered, in bytes: longer ones hardly come again."""
_MAX_PARTS: Final = 1000
"""In how many sections a body may lie."""
_LONGEST_DESCRIPTOR: Final = 64
_u32 = struct.Struct(">I").unpack_from
_NOTHING: Final[dict[str, Any]] = {}
_ValueT = TypeVar("_ValueT")


class _Memory(dict[bytes, _ValueT]):
    """What sections spell, by their bytes."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        super().__init__()
        self._room = _REMEMBERED

    def keep(self, section: bytes, value: _ValueT) -> None:
        """Remember it, unless it is long."""
        size = max(len(section), _LEAST_REMEMBERED)
        if size > _LONGEST_REMEMBERED:
            return
        if size > self._room:
            self.clear()
            self._room = _REMEMBERED
        self._room -= size
        self[section] = value


class MessageReader:
    """Reads messages; keep one for each stream, for what it remembers."""

    __slots__ = ("_annotations", "_headers", "_tails")

    def __init__(self) -> None:
        self._annotations = _Memory[tuple[str | None, dict[str, Any]]]()
        self._headers = _Memory[dict[str, Any]]()
        self._tails = _Memory[tuple[str | None, str | None]]()

    def read(self, data: bytes, begin: int, end: int, offset: int, timestamp: int) -> Message:
        """The message in ``data[begin:end]``, at `offset` of a chunk written at `timestamp`.

        What is not a well-formed AMQP message comes with `Message.defect` and its raw bytes; nothing is raised.
        """
        if begin == end or data[begin]:  # every section begins with a zero
            return Message(offset, timestamp, data[begin:end], defect="not an AMQP 1.0 message")
        try:
            return self._read(data, begin, end, offset, timestamp)
        except (MalformedError, IndexError, struct.error) as error:
            reason = str(error) if isinstance(error, MalformedError) else "it ends too early"
            return Message(offset, timestamp, data[begin:end], defect=f"malformed AMQP 1.0 message: {reason}")

    def _read(self, data: bytes, pos: int, end: int, offset: int, timestamp: int) -> Message:  # noqa: PLR0912, PLR0915
        # One long function, because a call per section would take as long as the section itself.
        routing_key = subject = id_ = content_type = None
        extra = headers = _NOTHING
        body: bytes | bytearray | None = None
        before = parts = 0
        begin = pos
        values: Values | None = None
        while pos < end:
            if data[pos + 1] == 0x53 and not data[pos]:
                code = data[pos + 2]
                pos += 3
            else:
                code, pos = _descriptor(data[pos : min(end, pos + _LONGEST_DESCRIPTOR)], pos)
            if code <= before:
                parts = _next_part(code, before, parts)
            kind = data[pos]
            if _DATA <= code <= _VALUE:
                if code != _DATA:
                    values = values or Values(data, end)
                    part, pos = _value_body(values, data, pos)
                else:
                    if kind == 0xA0:
                        start = pos + 2
                        pos = start + data[pos + 1]
                    elif kind == 0xB0:
                        start = pos + 5
                        pos = start + _u32(data, pos + 1)[0]
                    else:
                        raise MalformedError(f"a data section is of type 0x{kind:02x}")
                    part = data[start:pos]
                if body is None:
                    body = part
                elif code != before:
                    raise MalformedError("it has bodies of two kinds")
                else:
                    body = body if parts > 1 else bytearray(body)
                    body += part
                before = code
                continue
            before = code
            if kind == 0xC1 or kind == 0xC0:  # noqa: PLR1714 - faster than a set
                stop = pos + 2 + data[pos + 1]
            elif kind == 0xD1 or kind == 0xD0:  # noqa: PLR1714
                stop = pos + 5 + _u32(data, pos + 1)[0]
            elif kind == 0x45:
                stop = pos + 1
            else:
                raise MalformedError(f"section 0x{code:02x} is of type 0x{kind:02x}")
            if stop > end:
                raise MalformedError(f"section 0x{code:02x} ends after the message")
            if code == _PROPERTIES:
                id_, subject, content_type = self._read_properties(data[pos:stop])
            elif code == _ANNOTATIONS:
                section = data[pos:stop]
                routing_key, extra = self._annotations.get(section) or self._read_annotations(section)
            elif code == _APPLICATION_PROPERTIES:
                section = data[pos:stop]
                headers = self._headers.get(section) or self._read_headers(section)
            elif not _HEADER <= code <= _FOOTER:
                raise MalformedError(f"there is no section 0x{code:02x}")
            pos = stop
        if pos != end:
            raise MalformedError("the last section ends after the message")
        if extra:
            headers = {**extra, **headers}
        elif headers:
            headers = headers.copy()
        if routing_key is None:
            routing_key = subject if subject is not None else _key_in(headers)
        whole = body if type(body) is bytes else bytes(body or b"")
        size = end - begin if values is None else end - begin + len(whole)  # what was a value may be longer as JSON
        return Message(offset, timestamp, whole, routing_key, id_, headers, content_type, None, size)

    def _read_annotations(self, section: bytes) -> tuple[str | None, dict[str, Any]]:
        """The routing key that RabbitMQ notes, and headers: RabbitMQ makes annotations of those that begin with x-."""
        values = read_map(section)
        key = values.pop("x-routing-key", None)
        values.pop("x-exchange", None)
        headers = {name: value for name, value in values.items() if name.startswith("x-")}
        found = (key if isinstance(key, str) else None), headers
        self._annotations.keep(section, found)
        return found

    def _read_headers(self, section: bytes) -> dict[str, Any]:
        headers = read_map(section)
        self._headers.keep(section, headers)
        return headers

    def _read_properties(self, section: bytes) -> tuple[str | None, str | None, str | None]:
        """Message id, subject and content type: the list's items 0, 3 and 6."""
        kind = section[0]
        if kind == 0x45:
            return None, None, None
        if kind not in (0xC0, 0xD0):
            raise MalformedError("the properties are no list")
        pos = 3 if kind == 0xC0 else 9
        if pos >= len(section):
            return None, None, None
        if section[pos] == 0xA1:  # a short string, what most publishers use
            end = pos + 2 + section[pos + 1]
            if end > len(section):
                raise MalformedError("the message id ends after the properties")
            try:
                id_: str | None = section[pos + 2 : end].decode()
            except UnicodeDecodeError:
                raise MalformedError("the message id is not UTF-8") from None
        else:
            value, end = Values(section, len(section)).read(pos)
            if isinstance(value, list | dict):
                raise MalformedError("the message id is a list or a map")
            id_ = None if value is None else str(value)
        tail = section[end:]
        subject, content_type = self._tails.get(tail) or self._read_tail(tail)
        return id_, subject, content_type

    def _read_tail(self, tail: bytes) -> tuple[str | None, str | None]:
        """Subject and content type, from the properties that follow the message id."""
        items: list[Any] = [None] * 6
        values = Values(tail, len(tail))
        pos = 0
        for index in range(6):
            if pos >= len(tail):
                break
            items[index], pos = values.read(pos)
        subject, content_type = (item if isinstance(item, str) else None for item in (items[2], items[5]))
        self._tails.keep(tail, (subject, content_type))
        return subject, content_type


def _key_in(headers: dict[str, Any]) -> str | None:
    for name in ("routing_key", "x-routing-key"):
        key = headers.get(name)
        if isinstance(key, str):
            return key
    return None


def _next_part(code: int, before: int, parts: int) -> int:
    """The number of a body's further section; any other that does not follow the one before it is an error."""
    if code != before or code not in (_DATA, _SEQUENCE):
        raise MalformedError(f"section 0x{code:02x} follows section 0x{before:02x}")
    if parts >= _MAX_PARTS:
        raise MalformedError(f"its body lies in more than {_MAX_PARTS} sections")
    return parts + 1


def _descriptor(rest: bytes, pos: int) -> tuple[int, int]:
    """A section's code, written in one of the rarer ways, and where its value begins."""
    if rest[0] != 0x00:
        raise MalformedError("something that is no section follows a section")
    value, used = Values(rest, len(rest)).read(1)
    code = _CODES.get(value) if isinstance(value, str) else value
    if not isinstance(code, int):
        raise MalformedError(f"there is no section {value!r}")
    return code, pos + used


def _value_body(values: Values, data: bytes, pos: int) -> tuple[bytes, int]:
    """The body of a value or sequence section: a string's or binary's own bytes; anything else as JSON."""
    kind = data[pos]
    value, end = values.read(pos)
    if kind in (0xA0, 0xA1, 0xA3):
        body = data[pos + 2 : end]
    elif kind in (0xB0, 0xB1, 0xB3):
        body = data[pos + 5 : end]
    else:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return body, end
