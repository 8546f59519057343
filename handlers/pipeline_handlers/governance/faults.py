"""What is wrong with nested options, told at the very key: pydantic errors made and located by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipeline.config.problems import keys_of, near, submodels

__all__ = ["Fault", "Place", "faults_at", "with_known_keys"]

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indexes below the table whose validator finds a fault."""


class Fault(NamedTuple):
    """Something wrong, and where: keys and indexes below the table whose validator finds it."""

    place: Place
    message: str
    value: Any = None


def faults_at(faults: Sequence[Fault]) -> ValidationError:
    """An error for a validator to raise, so that each fault is reported at its own place."""
    return ValidationError.from_exception_data(
        "options", [_details(one.place, "value_error", one.message, one.value) for one in faults]
    )


def with_known_keys(
    error: ValidationError, model: type[BaseModel], owner: str, reserved: tuple[str, ...]
) -> ValidationError:
    """The same errors, of which those about unknown keys say what the keys are there, also in tables below.

    Args:
        error: What validating the model raised.
        model: The model.
        owner: Whose keys they are, in words (``action 'notify'``).
        reserved: Keys that stand beside the model's own.
    """
    details = []
    for item in error.errors(include_url=False):
        place, kind, context = item["loc"], item["type"], item.get("ctx")
        message = str(item["msg"])
        if len(place) == 1 and kind == "extra_forbidden":
            kind, known = "value_error", (*keys_of(model), *reserved)
            message = f"{owner} has no option {place[0]!r}{near(str(place[0]), known)}"
        elif kind == "extra_forbidden":
            kind, known = "value_error", tuple(key for inner in _below(model, place[:-1]) for key in keys_of(inner))
            message = f"{_words(place[:-1])} of {owner} has no key {place[-1]!r}{near(str(place[-1]), known)}"
        details.append(_details(place, kind, message, item["input"], context))
    return ValidationError.from_exception_data("options", details)


def _below(model: type[BaseModel], place: Place) -> list[type[BaseModel]]:
    """The models that the table at this place may be of."""
    return [found for found in submodels(model, None, place) if found is not model]


def _words(place: Place) -> str:
    """``steps[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _details(
    place: Place, kind: str, message: str, value: Any, context: Mapping[str, Any] | None = None
) -> InitErrorDetails:
    # The message goes in as a value, since a template's braces stand for values.
    words = {**(context or {}), "said": message}
    return InitErrorDetails(type=PydanticCustomError(kind, "{said}", words), loc=place, input=value)
