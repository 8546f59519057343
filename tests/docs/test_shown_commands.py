"""Every command that a page shows could be typed: its name, options and arguments are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks, name_of
from tests.docs.commands import commands_in, mistake_in

OF_PLUGINS = {"acme"}
"""Commands of plugins that a page tells of."""


def shown(page: Path) -> list[list[str]]:
    """The arguments of each ``pipeline`` that a page shows: in console blocks, and in a line of prose."""
    lines = [
        line.removeprefix("$ ")
        for block in blocks("console", "bash", page=page)
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines += [code for code in re.findall(r"`([^`\n]+)`", prose) if re.match(r"pipeline [a-z-]", code)]
    return [arguments for line in lines if "…" not in line and "<" not in line for arguments in commands_in(line)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    wrong = {
        " ".join(arguments): mistake
        for arguments in shown(page)
        if not (arguments and arguments[0] in OF_PLUGINS) and (mistake := mistake_in(arguments))
    }
    assert wrong == {}


def test_commands_are_found_at_all() -> None:
    assert ["publish", "hello.world", '{"name": "world"}'] in shown(ROOT / "docs" / "commands.md")
    assert sum(len(shown(page)) for page in PAGES) > 60


def test_a_wrong_command_is_noticed() -> None:
    assert "frobnicate" in mistake_in(["frobnicate"])
    assert "--lives" in mistake_in(["check", "--lives"])
    assert mistake_in(["dead-letters", "show"])
    assert mistake_in(["publish", "hello.world", "{}"]) == ""
    assert list(commands_in("A=b .venv/bin/pipeline check --json | head")) == [["check", "--json"]]


def test_the_targets_of_make_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text())}
    assert named >= {"run", "test"}
    assert named <= targets
