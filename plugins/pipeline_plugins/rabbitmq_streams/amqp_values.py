"""Any AMQP 1.0 value as a JSON value (type system: AMQP 1.0 core, part 1.6)."""

from __future__ import annotations

import base64
import math
import struct
import uuid
from collections.abc import Callable
from typing import Any, Final

__all__ = ["MalformedError", "Values", "json_bytes", "read_map"]

MAX_DEPTH: Final = 32
"""How deep lists and maps may nest: far more than anyone writes, and far less than Python's stack."""
MAX_VALUES: Final = 10_000
"""How many values one `Values` reads: a byte can spell a value that takes 50 bytes of memory and a microsecond."""


class MalformedError(ValueError):
    """The bytes are not AMQP 1.0."""


def json_bytes(value: bytes) -> str:
    """Bytes as JSON can hold them: text where they are UTF-8, else base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii")


def _unpacker(code: str) -> Callable[[bytes], Any]:
    unpack = struct.Struct(f">{code}").unpack
    return lambda data: unpack(data)[0]


def _number(code: str) -> Callable[[bytes], Any]:
    """A float; JSON has no word for those that are not finite, so they become text."""
    unpack = _unpacker(code)

    def convert(data: bytes) -> float | str:
        value: float = unpack(data)
        return value if math.isfinite(value) else str(value)

    return convert


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"a string is not UTF-8: {error.reason}") from None


def _unsigned(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _boolean(data: bytes) -> bool:
    return data != b"\x00"


def _character(data: bytes) -> str:
    try:
        return data.decode("utf-32-be")
    except UnicodeDecodeError as error:
        raise MalformedError(f"a character is no Unicode: {error.reason}") from None


def _raw(data: bytes) -> str:
    """A decimal number: its bits, for Python's own decimals are not in this format."""
    return data.hex()


_EMPTY: Final[dict[int, Any]] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_FIXED: Final[dict[int, Callable[[bytes], Any]]] = {
    0x50: _unsigned, 0x51: _signed, 0x52: _unsigned, 0x53: _unsigned, 0x54: _signed, 0x55: _signed, 0x56: _boolean,
    0x60: _unsigned, 0x61: _signed,
    0x70: _unsigned, 0x71: _signed, 0x72: _number("f"), 0x73: _character, 0x74: _raw,
    0x80: _unsigned, 0x81: _signed, 0x82: _number("d"), 0x83: _signed, 0x84: _raw,
    0x94: _raw, 0x98: lambda data: str(uuid.UUID(bytes=data)),
}  # fmt: skip
_VARIABLE: Final[dict[int, Callable[[bytes], Any]]] = {0xA: json_bytes, 0x0: json_bytes, 0x1: _text, 0x3: _text}
_WIDTHS: Final = {0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}


class Values:
    """Reads values of one message, at most `MAX_VALUES` of them in all, and never beyond `end`.

    Args:
        data: Where they lie.
        end: Where the message, or the section, ends.
    """

    __slots__ = ("_data", "_end", "_left")

    def __init__(self, data: bytes, end: int) -> None:
        self._data = data
        self._end = end
        self._left = MAX_VALUES

    def read(self, pos: int, depth: int = 0) -> tuple[Any, int]:
        """The value at `pos` as a JSON value, and where the next one begins.

        Timestamps are milliseconds since 1970, UUIDs and decimals are text, and a described value is the value alone.

        Raises:
            MalformedError: There is none, or not all of it, or there are too many of them, or they nest too deep.
        """
        if pos >= self._end:
            raise MalformedError("it ends where a value should begin")
        code = self._data[pos]
        if code == 0x00:
            if depth >= MAX_DEPTH:
                raise MalformedError(f"values nest deeper than {MAX_DEPTH}")
            _, pos = self.read(pos + 1, depth + 1)
            return self.read(pos, depth + 1)
        return self._constructed(code, pos + 1, depth)

    def _constructed(self, code: int, pos: int, depth: int) -> tuple[Any, int]:
        """The value whose constructor has been read."""
        self._left -= 1
        if self._left < 0:
            raise MalformedError(f"it has more than {MAX_VALUES} values")
        kind = code >> 4
        if code in _EMPTY:
            return _EMPTY[code], pos
        if code == 0x45:
            return [], pos
        if code in _FIXED:
            end = self._within(pos, _WIDTHS[kind])
            return _FIXED[code](self._data[pos:end]), end
        if kind in (0xA, 0xB) and code & 0xF in _VARIABLE:
            start, end = self._sized(pos, 1 if kind == 0xA else 4)
            return _VARIABLE[code & 0xF](self._data[start:end]), end
        if code in (0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xF0):
            return self._compound(code, pos, depth)
        raise MalformedError(f"there is no type 0x{code:02x}")

    def _within(self, pos: int, size: int) -> int:
        end = pos + size
        if end > self._end:
            raise MalformedError(f"a value ends {end - self._end} bytes after the message")
        return end

    def _sized(self, pos: int, width: int) -> tuple[int, int]:
        """Where the content of a value with a size of so many bytes begins and ends."""
        start = self._within(pos, width)
        return start, self._within(start, _unsigned(self._data[pos:start]))

    def _compound(self, code: int, pos: int, depth: int) -> tuple[Any, int]:
        if depth >= MAX_DEPTH:
            raise MalformedError(f"values nest deeper than {MAX_DEPTH}")
        width = 1 if code < 0xD0 or code == 0xE0 else 4
        start, end = self._sized(pos, width)
        items = self._within(start, width)
        count = _unsigned(self._data[start:items])
        if count > end - items:  # a byte each at least, so that a few bytes can't spell a million values
            raise MalformedError(f"{count} values can't fit into {end - items} bytes")
        if code in (0xE0, 0xF0):
            return self._array(items, end, count, depth + 1), end
        values = self._list(items, end, count, depth + 1)
        if code in (0xC0, 0xD0):
            return values, end
        if count % 2:
            raise MalformedError("a map has a key without a value")
        return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}, end

    def _list(self, pos: int, end: int, count: int, depth: int) -> list[Any]:
        values = []
        for _ in range(count):
            value, pos = self.read(pos, depth)
            values.append(value)
        if pos != end:
            raise MalformedError("a list or map is not as long as it says")
        return values

    def _array(self, pos: int, end: int, count: int, depth: int) -> list[Any]:
        """An array: one constructor for all its values."""
        if pos >= end:
            if count:
                raise MalformedError("an array has no constructor")
            return []
        code = self._data[pos]
        pos += 1
        if code == 0x00:
            _, pos = self.read(pos, depth)
            if pos >= end:
                raise MalformedError("an array has no constructor")
            code = self._data[pos]
            pos += 1
        values = []
        for _ in range(count):
            value, pos = self._constructed(code, pos, depth)
            values.append(value)
        if pos != end:
            raise MalformedError("an array is not as long as it says")
        return values


def read_map(section: bytes) -> dict[str, Any]:
    """A section's map as a dictionary.

    Raises:
        MalformedError: It is no map, or not all of it, or something follows.
    """
    value, end = Values(section, len(section)).read(0)
    if not isinstance(value, dict) or end != len(section):
        raise MalformedError("a section should be one map")
    return value


def _key(value: Any) -> str:
    if isinstance(value, list | dict):  # its text would double with each level that it is nested
        raise MalformedError("the key of a map is a list or a map")
    return value if isinstance(value, str) else str(value)
