"""Misfits: why data does not fit a model, in words that can be kept, however much of it is wrong."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

__all__ = ["misfit", "too_many"]

_TOLD: Final = 20
"""So many faults are told one by one."""
_LISTED: Final = 1_000
"""With more than that, none is: pydantic makes a list of all or none, of a kilobyte each, and a body of a mebibyte can
have half a million."""


def misfit(error: ValidationError, name: str = "") -> str:
    """What is wrong with an event's data.

    Args:
        error: What validating it raised.
        name: The model's name; by default as the error has it.
    """
    said, number = f"the data does not fit {name or error.title}", error.error_count()
    if number > _LISTED:
        return f"{said}: {number:,} faults, which are too many to be told"
    found = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'data'}: {fault['msg']}" for fault in found[:_TOLD]]
    return "; ".join([f"{said}: {faults[0]}", *faults[1:], *([f"and {number - _TOLD} more"] if number > _TOLD else [])])


def too_many(error: BaseException) -> str | None:
    """What to say of an error whose own text would list more faults than anybody reads; None of any other."""
    return misfit(error) if isinstance(error, ValidationError) and error.error_count() > _LISTED else None
