"""Fingerprints of failures: those of one place in the code, or that differ only in names and numbers, are a group."""

from __future__ import annotations

import re
from hashlib import sha1
from itertools import takewhile
from typing import Final

__all__ = ["fingerprint", "in_common", "pattern"]

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


def in_common(newest: str, *others: str) -> str:
    """The first words that these reasons share, and ``…``; the newest one's pattern where they are alike or unlike."""
    patterns = [pattern(reason).split() for reason in (newest, *others)]
    shared = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, zip(*patterns, strict=False))]
    if len(shared) == max(map(len, patterns)) or not any(map(_LETTER.search, shared)):
        return pattern(newest)
    return f"{' '.join(shared).removesuffix(' …')} …"


def fingerprint(
    group: str, stream: str, route: str, stage: str, kind: str, reason: str, place: str | None = None
) -> str:
    """The group's id: ten hexadecimal digits, the same for every dead letter that failed at this place in this way.

    With a place in the code that tells one failure from another, and the reason does not count.
    """
    what = "\x1f".join((group, stream, route, stage, kind, pattern(reason) if place is None else place))
    return sha1(what.encode("utf-8", "backslashreplace"), usedforsecurity=False).hexdigest()[:10]
