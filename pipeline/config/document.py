"""The file as it was written: its text read, its variables replaced, its lines known."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import positions
from pipeline.config.environment import Environment, interpolate
from pipeline.config.positions import scan
from pipeline.config.problems import Problems
from pipeline.errors import ConfigError, Problem

__all__ = ["Document", "read"]

_AT = re.compile(r"(?P<said>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Document:
    """A TOML file, interpolated.

    Attributes:
        file: Its path as the user wrote it.
        raw: Its tables.
        problems: What is wrong with its variables; later readers add to it.
        used: What variables put into a text, by the text's path.
    """

    file: str
    raw: dict[str, Any]
    problems: Problems
    used: dict[positions.Path, list[str]]

    def origin(self, path: positions.Path) -> str:
        """Where the value comes from: ``pipeline.toml:7``, with the variables that stand in it."""
        line = self.problems.positions.line(path)
        origin = f"{self.file}:{line}" if line else self.file
        variables = [name for place, names in self.used.items() if place[: len(path)] == path for name in names]
        return f"{origin} ({', '.join(dict.fromkeys(variables))})" if variables else origin


def read(path: Path, environment: Environment) -> Document:
    """Read a TOML file and replace the variables in its texts.

    Raises:
        ConfigError: There is no such file, it can't be read, or it is no TOML.
    """
    file = str(path)
    text = _text(path, file)
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(str(error), text, file)]) from None
    except RecursionError:
        raise ConfigError([Problem("its arrays are nested too deeply", file=file)]) from None
    used: dict[positions.Path, list[str]] = {}
    raw, errors = interpolate(parsed, environment, used)
    problems = Problems(file, scan(text), raw)
    problems.interpolated.update(used)
    for place, message in errors.items():
        problems.add(place, message)
    return Document(file, raw, problems, used)


def _text(path: Path, file: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        message = "there is no such file: name one, as in 'pipeline run path/to/pipeline.toml'"
    except IsADirectoryError:
        message = "this is a folder: name the file in it"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem("this is not UTF-8, which TOML must be", file=file, line=line)]) from None
    except OSError as error:
        message = f"it can't be read: {error.strerror}"
    raise ConfigError([Problem(message, file=file)])


def _syntax_problem(said: str, text: str, file: str) -> Problem:
    found = _AT.fullmatch(said)
    if found is None:
        return Problem(f"no valid TOML: {said}", file=file)
    line = int(found["line"]) if found["line"] else text.rstrip("\n").count("\n") + 1
    column = f" (column {found['column']})" if found["column"] else ""
    words = found["said"]
    if words == r"Illegal character '\n'":
        words = "a text in quotes does not end on its line"
    return Problem(f"no valid TOML: {words[:1].lower()}{words[1:]}{column}", file=file, line=line)
