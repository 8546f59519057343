"""What the tables of `pipeline.toml` are made of: their base, durations, and lists that may be a single text."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

__all__ = ["UNITS", "Names", "Seconds", "Table", "seconds"]

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""The units of a duration, in seconds."""
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(value: object) -> object:
    """Seconds from a duration such as ``10s``, ``1m30s``, ``250ms``, ``7d``; a mere number is seconds already.

    Raises:
        ValueError: It is a text, but not a duration; or it is true or false.
    """
    if isinstance(value, bool):  # pydantic would take it for a number
        raise ValueError("write a duration, as in '10s' or '1m30s'")  # noqa: TRY004 - pydantic reports only these
    if not isinstance(value, str):
        return value
    if _NUMBER.fullmatch(value):  # what a variable gives is a text
        return float(value)
    if not _DURATION.fullmatch(value):
        raise ValueError(f"{value!r} is not a duration: write a number and ms, s, m, h or d, as in '10s' or '1m30s'")
    return sum(float(number) * UNITS[unit] for number, unit in _PART.findall(value))


def _duration_text(value: float) -> str:
    for unit in ("d", "h", "m"):
        if value and value % UNITS[unit] == 0:
            return f"{value / UNITS[unit]:g}{unit}"
    return f"{value:g}s"


Seconds = Annotated[
    float,
    BeforeValidator(seconds, json_schema_input_type=float | Annotated[str, Field(pattern=rf"^{_DURATION.pattern}$")]),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(_duration_text, when_used="json"),
]
"""A duration: ``"10s"``, ``"1m30s"``, ``"250ms"``, ``"7d"``, or a number of seconds."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
"""A text, or a list of texts."""


class Table(BaseModel):
    """A table of `pipeline.toml`: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
