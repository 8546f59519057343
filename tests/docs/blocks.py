"""The pages of the docs, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "blocks", "files_of", "name_of", "section"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "tests" / "contract" / "README.md",
    ROOT / "tests" / "services" / "README.md",
]
"""What people read, but for the records of decisions."""

_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: The page that it stands in.
        line: The line of its fence.
        language: The first word after the fence.
        info: What follows it: ``fragment``, or the name of the file that the block is.
        text: What it holds.
    """

    page: Path
    line: int
    language: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """The blocks in these languages, of one page or of all."""
    return [block for one in ([page] if page else PAGES) for block in _blocks(one) if block.language in languages]


def files_of(page: Path) -> dict[str, str]:
    """The files that a page's blocks are, by name."""
    return {block.info: block.text for block in _blocks(page) if "." in block.info}


def section(page: Path, title: str) -> str:
    """A section's text, from its heading to the next one of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", page.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{name_of(page)} has no section {title!r}"
    return found[2]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        language, _, info = found["info"].strip().partition(" ")
        yield Block(page, text.count("\n", 0, found.start()) + 1, language, info, found["text"])
