"""Fingerprints of failures: those that differ only in names and numbers are one group."""

from __future__ import annotations

import re
from hashlib import sha1
from typing import Final

__all__ = ["fingerprint", "pattern"]

_QUOTED: Final = re.compile(r"(?<!\w)('[^']*'|\"[^\"]*\")(?!\w)")
_WORD: Final = re.compile(r"[^\s,;()\[\]{}=…]+")
_DIGIT: Final = re.compile(r"\d")
_LETTER: Final = re.compile(r"[^\W\d_]")
_LONGEST: Final = 300
"""Characters of a reason that count: a trace or a dump behind it would make each failure a group of its own."""


def pattern(reason: str) -> str:
    """The reason with ``…`` for what is quoted, and for every word that holds a digit: an id, a number, a time.

    Where nothing would be left, as of a KeyError's reason, what is quoted is kept unless it holds a digit.
    """
    reason = reason[: 4 * _LONGEST]
    unquoted = _QUOTED.sub("…", reason)
    return _WORD.sub(_told, unquoted if _LETTER.search(unquoted) else reason)[:_LONGEST]


def _told(word: re.Match[str]) -> str:
    return "…" if _DIGIT.search(word[0]) else word[0]


def fingerprint(group: str, stream: str, route: str, stage: str, kind: str, reason: str) -> str:
    """The group's id: ten hexadecimal digits, the same for every dead letter that failed at this place in this way."""
    what = "\x1f".join((group, stream, route, stage, kind, pattern(reason)))
    return sha1(what.encode("utf-8", "backslashreplace"), usedforsecurity=False).hexdigest()[:10]
