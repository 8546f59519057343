"""Text that every database takes: what a broker delivers may hold characters that PostgreSQL refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["LONGEST_ID", "clean_id", "clean_json", "clean_text"]

LONGEST_ID: Final = 300
"""Characters of an event id that are kept as they are: PostgreSQL refuses index entries of more than 2,704 bytes."""

_DEEPEST: Final = 250
"""How deep lists and maps are followed, deeper than any event may nest; those beneath are taken for empty ones."""


def clean_text(text: str) -> str:
    r"""The text without what a text column can't hold: NUL becomes ``\u0000``, a lone surrogate ``\ud800``."""
    if text.isascii():  # the usual case, decided without a copy
        return text.replace("\0", r"\u0000") if "\0" in text else text
    return text.replace("\0", r"\u0000").encode("utf-8", "backslashreplace").decode()


def clean_id(event_id: str) -> str:
    """The id as it is stored: itself, unless it is very long or holds what a text column can't.

    Such an id is made distinct by its hash, so that no two ids become one.
    """
    cleaned = clean_text(event_id)
    if len(cleaned) <= LONGEST_ID and cleaned == event_id:
        return event_id
    digest = hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{cleaned[:LONGEST_ID]}#{digest}"


def clean_json(value: Any, depth: int = 0) -> Any:
    """A JSON value of which every text is clean; what is no JSON becomes its text."""
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    depth += 1
    if type(value) is dict or isinstance(value, Mapping):  # the second question is the dearer one
        value = value if depth <= _DEEPEST else {}
        return {clean_text(str(key)): clean_json(item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item, depth) for item in (value if depth <= _DEEPEST else ())]
    return clean_text(str(value))
