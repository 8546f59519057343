"""Environment variables, mounted secret files included, and their interpolation into values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import positions

__all__ = ["Environment", "InterpolationError", "interpolate"]

_FILE = "_FILE"
_REFERENCE = re.compile(r"\$\$|\$\{(?P<inside>[^{}]*)\}|(?P<open>\$\{)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-.*)?", re.DOTALL)


class InterpolationError(ValueError):
    """A reference to a variable can't be replaced."""


class Environment(Mapping[str, str]):
    """The environment as the configuration reads it: where ``VAR`` is not set and ``VAR_FILE`` is, that file's text.

    Attributes:
        warnings: What looked like a mistake while variables were read, by their names.
        errors: Mounted files that could not be read, by the variables that they stand for.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._files: dict[str, str | None] = {}
        self.warnings: dict[str, str] = {}
        self.errors: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """The variable's value. Raises `KeyError` where it is not set."""
        file = self._environ.get(name + _FILE)
        if name in self._environ:
            if file is not None and not name.endswith(_FILE):
                self.warnings[name] = f"both {name} and {name}{_FILE} are set: {name} is used"
            return self._environ[name]
        if file is None:
            raise KeyError(name)
        if name not in self._files:
            self._files[name] = self._read(name, file)
        text = self._files[name]
        if text is None:
            raise KeyError(name)
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)

    def value(self, name: str) -> str | None:
        """The variable's value; None where it is not set or empty."""
        return self.get(name) or None

    def named(self, name: str) -> str:
        """The variable's name as messages give it: that of the variable which is really set."""
        return name if name in self._environ else name + _FILE

    def _read(self, name: str, file: str) -> str | None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            words = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.errors[name] = f"{name}{_FILE} names {file!r}, which can't be read: {words}"
            return None
        return text.removesuffix("\n").removesuffix("\r")


def interpolate(
    value: Any, environment: Environment, used: dict[positions.Path, list[str]], path: positions.Path = ()
) -> tuple[Any, dict[positions.Path, str]]:
    """The value with every ``${VAR}`` and ``${VAR:-default}`` in its texts replaced; ``$$`` stands for ``$``.

    As in a shell, the default stands also for a variable that is set to the empty text.

    Args:
        value: What `tomllib` read.
        environment: The variables.
        used: Gets what was put in, by the text's path: ``environment GROUP``, ``default of GROUP``.
        path: Where the value stands.

    Returns:
        The value, and by path what is wrong.
    """
    errors: dict[positions.Path, str] = {}
    if isinstance(value, str):
        if "$" not in value:
            return value, errors
        try:
            return _REFERENCE.sub(lambda found: _replacement(found, environment, used, path), value), errors
        except InterpolationError as error:
            return value, {path: str(error)}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return value, errors
    results = {}
    for key, item in items:
        results[key], wrong = interpolate(item, environment, used, (*path, key))
        errors |= wrong
    return (results if isinstance(value, dict) else list(results.values())), errors


def _replacement(
    found: re.Match[str], environment: Environment, used: dict[positions.Path, list[str]], path: positions.Path
) -> str:
    if found[0] == "$$":
        return "$"
    inside = _INSIDE.fullmatch(found["inside"] or "")
    if inside is None:
        raise InterpolationError(
            f"{found[0]!r} is no reference: write ${{NAME}} or ${{NAME:-default}}, and $$ for a dollar sign"
        )
    name, default = inside["name"], inside["default"]
    text = environment.get(name)
    if default is not None and not text:
        used.setdefault(path, []).append(f"default of {name}")
        return default[2:]
    if text is None:
        problem = environment.errors.get(name) or f"the variable {name} is not set"
        raise InterpolationError(f"{problem}: set it, set {name}{_FILE}, or write ${{{name}:-default}}")
    used.setdefault(path, []).append(f"environment {environment.named(name)}")
    return text
