"""Where each key and value of a TOML text stands: line numbers for messages.

`tomllib` gives values without places, and no maintained library gives both. This scanner reads only texts that
`tomllib` has accepted, so it needs to know no more than where keys, values, strings and comments end.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

__all__ = ["Path", "Positions", "scan"]

Path = tuple[str | int, ...]
"""A place in the document: keys, and indexes into arrays."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r"'{3}.*?'{3,5}(?!')|\"{3}(?:[^\\]|\\.)*?\"{3,5}(?!\")|'[^'\n]*'|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]*")


class Positions:
    """The lines of a document's keys and values."""

    def __init__(self, lines: Mapping[Path, int]) -> None:
        self.lines = lines

    def line(self, path: Path) -> int | None:
        """The line of this key or value; where it is not in the text, of what it would stand in; None for neither."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def scan(text: str) -> Positions:
    """The positions in a valid TOML text; lines are counted from 1."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return Positions(scanner.lines)


class _Scanner:
    """One pass over the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.tables: dict[Path, int] = {}  # arrays of tables, and how many each has so far
        self._counted, self._line = 0, 1

    def document(self) -> None:
        """Headers, and the keys below them."""
        prefix: Path = ()
        while True:
            self.skip(_BLANK)
            if self.at >= len(self.text):
                return
            if self.text.startswith("[[", self.at):
                prefix = self.header(2)
            elif self.text[self.at] == "[":
                prefix = self.header(1)
            else:
                self.pair(prefix)

    def header(self, brackets: int) -> Path:
        """``[a.b]`` or ``[[a.b]]``: the path of the table that it opens."""
        line = self.line()
        self.at += brackets
        keys = self.keys()
        self.at = self.text.index("]" * brackets, self.at) + brackets
        path: Path = ()
        for number, key in enumerate(keys, 1):
            path += (key,)
            self.lines.setdefault(path, line)
            if number == len(keys) and brackets == 2:
                self.tables[path] = self.tables.get(path, 0) + 1
            if path in self.tables:
                path += (self.tables[path] - 1,)
                self.lines.setdefault(path, line)
        return path

    def pair(self, prefix: Path) -> None:
        """``a.b = value``."""
        line = self.line()
        path = prefix
        for key in self.keys():
            path += (key,)
            self.lines.setdefault(path, line)
        self.at = self.text.index("=", self.at) + 1
        self.skip(_SPACE)
        self.value(path)

    def keys(self) -> list[str]:
        """A dotted key."""
        keys: list[str] = []
        while True:
            self.skip(_SPACE)
            keys.append(self.key())
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def key(self) -> str:
        """A bare or quoted key."""
        if self.text[self.at] in "'\"":
            quoted = self.take(_STRING)
            return str(tomllib.loads(f"key = {quoted}")["key"])
        return self.take(_BARE_KEY)

    def value(self, path: Path) -> None:
        """A value of any kind."""
        first = self.text[self.at]
        if first in "'\"":
            self.take(_STRING)
        elif first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        else:
            self.take(_BARE_VALUE)

    def array(self, path: Path) -> None:
        """``[1, 2]``, over as many lines as it takes."""
        self.at += 1
        index = 0
        while True:
            self.skip(_BLANK)
            if self.text[self.at] == "]":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.lines[(*path, index)] = self.line()
            self.value((*path, index))
            index += 1

    def inline_table(self, path: Path) -> None:
        """``{ a = 1, b.c = 2 }``."""
        self.at += 1
        while True:
            self.skip(_BLANK)
            if self.text[self.at] == "}":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.pair(path)

    def skip(self, what: re.Pattern[str]) -> None:
        """Go past blanks."""
        if found := what.match(self.text, self.at):
            self.at = found.end()

    def take(self, what: re.Pattern[str]) -> str:
        """Go past one token, and return it."""
        found = what.match(self.text, self.at)
        if found is None:
            raise ValueError(f"no valid TOML at line {self.line()}")
        self.at = found.end()
        return found[0]

    def line(self) -> int:
        """The line of the present place."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line
