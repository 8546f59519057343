"""Limits on input: how large, deep and ambiguous a message may be before it is a dead letter and no event."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from pipeline.config.fields import Table

__all__ = ["Bytes", "Limits", "size_text"]

_UNITS = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_NUMBER = re.compile(r"\d{1,15}")


def _bytes(value: object) -> object:
    """Bytes from a size such as ``64KiB`` or ``1.5MB``; a mere number is bytes already.

    Raises:
        ValueError: It is a text, but no size.
    """
    if isinstance(value, bool):
        raise ValueError("write a size, as in '64KiB', or a number of bytes")  # noqa: TRY004 - pydantic's
    if not isinstance(value, str):
        return value
    if _NUMBER.fullmatch(value):  # what a variable gives is a text
        return int(value)
    found = _SIZE.fullmatch(value)
    if not found:
        raise ValueError(
            f"{value!r} is not a size: write a number and B, kB, MB, GB, KiB, MiB or GiB, as in '64KiB' or '1MiB'"
        )
    return round(float(found[1]) * _UNITS[found[2]])


def size_text(value: int) -> str:
    """A number of bytes as people write it: ``64KiB``; the exact number where no unit divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value}B"


_Number = Annotated[int, Field(ge=1, le=2**31)]
Bytes = Annotated[
    _Number,
    BeforeValidator(_bytes, json_schema_input_type=_Number | Annotated[str, Field(pattern=rf"^{_SIZE.pattern}$")]),
    PlainSerializer(size_text, when_used="json"),
]
"""A size in bytes, at most 2 GiB: ``"64KiB"``, ``"1MB"``, or a number of bytes."""


class Limits(Table):
    """``limits = {…}`` of a source: a message beyond them becomes a dead letter, with its bytes, and reaches no stage.

    A message that another connector or the broker refuses never comes this far, and what comes is kept whole, also
    where it is larger than `event`: a dead letter must have all that the message had.
    """

    event: Bytes = Field(2**20, description="How large a body may be.")
    in_flight: Bytes = Field(
        2**26,
        description="How large the messages in flight may be together, headers included, before reading pauses; "
        "a batch is taken in.",
    )
    nesting: int = Field(64, ge=1, le=200, description="How deep objects and lists may nest, the outermost included.")
    headers: int = Field(100, ge=0, description="How many headers a message may have.")
    header_bytes: Bytes = Field(
        2**16, description="How large a message's headers, as JSON, and its id may be together."
    )
    duplicate_keys: Literal["reject", "last"] = Field(
        "reject", description="What becomes of an object with a key twice: a dead letter, or its last value counts."
    )
    huge_numbers: Literal["reject", "round"] = Field(
        "reject", description="What becomes of a whole number of more than 64 bits: a dead letter, or it is rounded."
    )
