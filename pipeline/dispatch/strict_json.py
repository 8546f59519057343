"""What a fast JSON parser lets pass in silence: nesting, keys that come twice, whole numbers that it rounds.

Each question is first asked of the bytes as a whole, at the speed of `bytes.count`, so that the usual event costs next
to nothing; only where that leaves it open are the bytes looked at more closely. Nothing here recurses.

The last two need not be asked where `orjson.dumps` makes the very same bytes of the data again: it writes no key twice,
and a whole number that was rounded with a point or an exponent.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["has_huge_number", "nests_deeper", "repeats_a_key"]

# `bytes` finds a byte that is given as a number ten times as fast as one that is given as bytes.
_LIST: Final = ord("[")
_BACKSLASH: Final = ord("\\")
_STRUCTURE: Final = bytes.maketrans(b"{[]}", b"[[]]")
_ELSE: Final = bytes(byte for byte in range(256) if byte not in b'{[]}"')
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BARE_STRING: Final = re.compile(rb'"[^"]*"?')
_ESCAPE: Final = re.compile(rb"\\(?:(u003[aA])|.)", re.DOTALL)
_DIGITS_AS_0: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LEAST_LONG: Final = b"0" * 19
"""The shortest whole number that may have more than 64 bits: -2**63 has 19 digits."""
_MOST_DIGITS: Final = 20


def nests_deeper(body: bytes, limit: int) -> bool:
    """Whether objects and lists nest deeper than `limit`, at least 1, in a JSON text.

    Of a text that is not valid JSON it says whether a parser may get so deep before it notices.
    """
    opened = body.count(b"{") if body.rfind(b"{") > 0 else 1
    if _LIST in body:  # to look for one is much faster than to count them
        opened += body.count(b"[")
    return opened > limit and _depth(body, limit) > limit


def _depth(body: bytes, limit: int) -> int:
    """How deep it nests: exact up to `limit`, else some number above it."""
    left = _brackets(body)
    for depth in range(limit + 1):
        if not left:
            return depth
        inner = left.replace(b"[]", b"")
        if len(inner) == len(left):  # they don't pair: it is no JSON
            return depth + left.count(b"[")
        left = inner
    return limit + 1


def _brackets(body: bytes) -> bytes:
    """The brackets of a JSON text, all as square ones, without those in its strings."""
    if _BACKSLASH in body:  # an escaped quote would look like a string's end
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    left = body.translate(_STRUCTURE, _ELSE).replace(b'""', b"")
    return _BARE_STRING.sub(b"", left) if b'"' in left else left


def repeats_a_key(body: bytes, anew: bytes) -> bool:
    """Whether an object in a valid JSON text has a key twice, `anew` being the text written anew by `orjson`.

    Every pair has a colon of its own, and a parser that keeps the last value of a key loses the others with theirs. In
    the text written anew no colon is escaped.
    """
    written = body.count(b":")
    if body.find(rb"\u003") >= 0:
        written += sum(1 for found in _ESCAPE.finditer(body) if found[1])
    return written != anew.count(b":")


def has_huge_number(body: bytes) -> bool:
    """Whether a valid JSON text holds a whole number of more than 64 bits, of which a parser makes a rounded one."""
    return _has_huge(body) and _has_huge(_STRING.sub(b'""', body))


def _has_huge(text: bytes) -> bool:
    """The same, where such digits in a string count as well."""
    digits = text.translate(_DIGITS_AS_0)
    begin = digits.find(_LEAST_LONG)
    while begin >= 0:
        end = digits.find(b" ", begin)  # there is one: the text ends with a bracket
        if _is_huge_whole(text, begin, end):
            return True
        begin = digits.find(_LEAST_LONG, end)
    return False


def _is_huge_whole(text: bytes, begin: int, end: int) -> bool:
    sign = text[begin - 1] == 0x2D
    if text[begin - 1 - sign] in b".eE+" or text[end] in b".eE":
        return False
    if end - begin > _MOST_DIGITS:
        return True
    number = int(text[begin:end])
    return number > 2**63 if sign else number >= 2**64
