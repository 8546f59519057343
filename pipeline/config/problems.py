"""Collecting everything that is wrong with a configuration, each with its line, its path and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, ValidationError

from pipeline.config.positions import Path, Positions
from pipeline.config.redact import redact
from pipeline.errors import Problem

__all__ = ["Problems", "dotted", "keys_of", "near", "submodels"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: Path) -> str:
    """The path as one would write it: ``route[0].stages[1]``, ``stage.control.signals."a.b"``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else f'"{part}"')
    return text


def near(name: str, names: Iterable[str]) -> str:
    """A hint at the nearest of these names, or at all of them where none is near: ``; did you mean 'stages'?``."""
    known = sorted(set(names))
    if found := difflib.get_close_matches(name, known, 1, cutoff=0.55):
        return f"; did you mean {found[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else ""


class Problems:
    """What was found so far.

    Attributes:
        errors: What must be mended.
        warnings: What is probably a mistake.
        interpolated: Texts that variables stand in; their values may be secrets, and are never shown.
        outside: Where values came from that are not in the file (``environment TEMPORAL_HOST``).
    """

    def __init__(self, file: str, positions: Positions, raw: Mapping[str, Any]) -> None:
        self.file = file
        self.positions = positions
        self.raw = raw
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self.interpolated: set[Path] = set()
        self.outside: dict[Path, str] = {}

    def add(self, path: Path, message: str) -> None:
        """Something is wrong here. One place is complained of once: the first complaint is the cause of the others."""
        problem = self._problem(path, message)
        if not any(known.path == problem.path and known.line == problem.line for known in self.errors if known.path):
            self.errors.append(problem)

    def warn(self, path: Path, message: str) -> None:
        """Something here is probably a mistake."""
        self.warnings.append(self._problem(path, message))

    def validation(self, error: ValidationError, model: type[BaseModel], raw: Any, path: Path) -> None:
        """Everything that pydantic says about a table that stands at this path."""
        found: dict[Path, list[dict[str, Any]]] = {}
        for item in error.errors(include_url=False):
            found.setdefault(_place(raw, item["loc"], item["type"] == "missing"), []).append(dict(item))
        for place, items in found.items():
            ours = [item for item in items if item["type"] in ("value_error", "assertion_error")]
            texts = [self._words(item, model, raw, place, (*path, *place)) for item in ours or items]
            self.add((*path, *place), "; or ".join(dict.fromkeys(texts)))

    def in_order(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems in the order of the file; those without a line come last."""
        return sorted(problems, key=lambda problem: problem.line or 10**9)

    def value_at(self, path: Path) -> Any:
        """What the file says at this path; None where it says nothing."""
        value: Any = self.raw
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def _problem(self, path: Path, message: str) -> Problem:
        message = redact(message)
        if path in self.outside:
            return Problem(f"{message} (it comes from {self.outside[path]})", dotted(path))
        return Problem(message, dotted(path), self.file, self.positions.line(path))

    def _words(self, item: dict[str, Any], model: type[BaseModel], raw: Any, place: Path, path: Path) -> str:
        kind, context = item["type"], item.get("ctx", {})
        secret = path in self.interpolated or path in self.outside
        shown = "" if secret else _shown(item["input"])
        if kind == "extra_forbidden":
            names = {name for owner in submodels(model, raw, place[:-1]) for name in keys_of(owner)}
            return f"unknown key {place[-1]!r}{near(str(place[-1]), names)}"
        if kind == "missing":
            return f"the key is missing{_meaning(model, raw, place)}"
        if kind in ("value_error", "assertion_error"):
            return str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if kind in ("literal_error", "enum"):
            expected = str(context["expected"]).replace("False", "false").replace("True", "true")
            return f"it must be {expected}{shown}"
        wanted = next((words for start, words in _WANTED.items() if kind.startswith(start)), "")
        return (wanted or _lowered(str(item["msg"]))) + ("" if "too_short" in kind else shown)


_WANTED = {
    "string_type": "it must be a text in quotes",
    "int_": "it must be a whole number",
    "float_": "it must be a number",
    "bool_": "it must be true or false",
    "tuple_type": "it must be a list",
    "list_type": "it must be a list",
    "dict_type": "it must be a table",
    "model_type": "it must be a table",
    "model_attributes_type": "it must be a table",
    "string_too_short": "it must not be empty",
    "too_short": "it must not be empty",
}


def _lowered(message: str) -> str:
    message = re.sub(r"^Input should be ", "it must be ", message)
    return message[:1].lower() + message[1:]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f", not {str(value).lower()}"
    if isinstance(value, int | float | str):
        text = repr(value)
        return f", not {text if len(text) <= 60 else text[:57] + '…'}"
    if isinstance(value, dict):
        return ", not a table"
    return ", not a list" if isinstance(value, list) else ""


def _place(raw: Any, loc: tuple[int | str, ...], missing: bool) -> Path:
    """Where in the raw table pydantic's location is: without the names of union members and validators."""
    place: Path = ()
    for index, part in enumerate(loc):
        if isinstance(raw, dict) and part in raw:  # noqa: SIM114 - the types differ
            raw = raw[part]
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
        elif not (missing and index == len(loc) - 1):
            continue
        place += (part,)
    return place


def keys_of(model: type[BaseModel], *, by_name: bool = False) -> list[str]:
    """The keys of the model's table; with `by_name` also the Python names of fields whose keys differ."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        keys += [key for key in choices if isinstance(key, str)]
        if alias is None or (by_name and (model.model_config.get("populate_by_name") or _takes_names(model))):
            keys.append(name)
    return keys


def _takes_names(model: type[BaseModel]) -> bool:
    return bool(model.model_config.get("validate_by_name"))


def submodels(model: type[BaseModel], raw: Any, place: Path) -> list[type[BaseModel]]:
    """The models that the table at this place may be of."""
    owners = [model]
    for part in place:
        if isinstance(part, int):
            continue
        owners = [
            inner
            for owner in owners
            for name, field in owner.model_fields.items()
            if part in (field.alias or name, name)
            for inner in _models_in(field.annotation)
        ] or owners
    return owners


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _meaning(model: type[BaseModel], raw: Any, place: Path) -> str:
    for owner in submodels(model, raw, place[:-1]):
        for name, field in owner.model_fields.items():
            if place[-1] in (field.alias, name) and field.description:
                return f": {field.description[:1].lower()}{field.description[1:].rstrip('.')}"
    return ""
