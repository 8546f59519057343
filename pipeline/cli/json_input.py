"""JSON that a user typed or keeps in a file: parsed, or refused with the place of the mistake."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import UserError

__all__ = ["parse_object"]


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        text: The JSON; bytes are UTF-8.
        what: What it is, for the message: ``JSON``, ``events.jsonl:12``.

    Raises:
        UserError: It is not JSON, or not an object; says where.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"{what}: not JSON: {error.msg} at {line}column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: not UTF-8 at byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f'{what}: an event\'s data is a JSON object, as in {{"id": 1}}; this is {_kind(value)}')
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), "something else")
