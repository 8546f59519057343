"""AMQP 1.0 messages as this project writes them: properties, headers, one data section."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from pipeline.connectors import MessageRefused, Outgoing

__all__ = ["encode_message"]

_NULL: Final = b"\x40"
_PROPERTIES: Final = b"\x00\x53\x73"
_APPLICATION_PROPERTIES: Final = b"\x00\x53\x74"
_DATA: Final = b"\x00\x53\x75"
_u32 = struct.Struct(">I").pack
_i64 = struct.Struct(">q").pack
_f64 = struct.Struct(">d").pack


def encode_message(message: Outgoing) -> bytes:
    """The message's bytes.

    The routing key is the properties' `subject`: the stream protocol has no routing keys, and RabbitMQ notes one in
    the annotations only of messages that go through an exchange.

    Raises:
        MessageRefused: A header's value is neither text, number, boolean, bytes nor None, or some text is no Unicode.
    """
    try:
        return _encode(message)
    except UnicodeEncodeError as error:
        raise MessageRefused(f"the message {message.id!r} holds text that is not Unicode: {error.object!r}") from None


def _encode(message: Outgoing) -> bytes:
    content_type = _NULL if message.content_type is None else _sized(0xA3, message.content_type.encode())
    items = b"".join((_string(message.id), _NULL, _NULL, _string(message.routing_key), _NULL, _NULL, content_type))
    parts = [_PROPERTIES, _compound(0xC0, 7, items)]
    if message.headers:
        parts += (_APPLICATION_PROPERTIES, _map(message.headers))
    parts += (_DATA, _sized(0xA0, message.body))
    return b"".join(parts)


def _map(values: Mapping[str, Any]) -> bytes:
    items = b"".join(_string(name) + _value(name, value) for name, value in values.items())
    return _compound(0xC1, 2 * len(values), items)


def _value(name: str, value: Any) -> bytes:
    if value is None:
        return _NULL
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return b"\x41" if value else b"\x42"
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return b"\x81" + _i64(value)
        raise MessageRefused(f"the header {name!r} is {value}: a number takes at most 64 bits")
    if isinstance(value, float):
        return b"\x82" + _f64(value)
    if isinstance(value, bytes):
        return _sized(0xA0, value)
    raise MessageRefused(f"the header {name!r} is a {type(value).__name__}: headers are text, numbers or booleans")


def _string(value: str) -> bytes:
    return _sized(0xA1, value.encode())


def _sized(code: int, content: bytes) -> bytes:
    """A value with its size; the code is that of the short form."""
    if len(content) < 256:
        return bytes((code, len(content))) + content
    return bytes((code + 0x10,)) + _u32(len(content)) + content


def _compound(code: int, count: int, items: bytes) -> bytes:
    """A list or map with its size and count; the code is that of the short form."""
    if len(items) < 255 and count < 256:
        return bytes((code, len(items) + 1, count)) + items
    return bytes((code + 0x10,)) + _u32(len(items) + 4) + _u32(count) + items
