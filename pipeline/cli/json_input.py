"""JSON that a user typed or keeps in a file: parsed, or refused with the place of the mistake."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

from pipeline.errors import UserError

__all__ = ["parse_object"]


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        text: The JSON; bytes are UTF-8.
        what: What it is, for the message: ``JSON``, ``events.jsonl:12``.

    Raises:
        UserError: It is not JSON, not an object, or would lose a value: an object in it has a key twice, or a number is
            too great.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"{what}: not JSON: {error.msg} at {line}column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: not UTF-8 at byte {error.start + 1}") from None
    except _RepeatedKey as error:
        raise UserError(f"{what}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f'{what}: an event\'s data is a JSON object, as in {{"id": 1}}; this is {_kind(value)}')
    return value


class _RepeatedKey(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for number, name in enumerate(names) if name in names[:number])
        raise _RepeatedKey(f"an object has the key {repeated!r} twice: one of its values would be lost")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):  # it would be published as null
        raise ValueError(f"the number {text[:40]} is too great")
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), "something else")
