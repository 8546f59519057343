"""The commands of ``pipeline``, parsed as the program parses them, without being run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer
from typer.main import get_command

from pipeline.cli.app import build

__all__ = ["commands_in", "every_command", "mistake_in"]

_WORDS = re.compile(r"(?:[\w./-]*/)?pipeline(?: |$)")
_SEPARATORS = {"|", "&&", ";", ">", "<"}


@cache
def _program() -> Any:
    return get_command(build())


def every_command() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that is built in, and its path: ``("dead-letters", "list")``."""
    yield from _below((), _program())


def _below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield (*path, name), child
        yield from _below((*path, name), child)


def commands_in(line: str) -> Iterator[list[str]]:
    """The arguments of each ``pipeline`` in a line of a shell."""
    words = shlex.split(line, comments=True)
    while words:
        end = next((index for index, word in enumerate(words) if word in _SEPARATORS), len(words))
        command, words = words[:end], words[end + 1 :]
        while command and re.fullmatch(r"\w+=\S*", command[0]):
            command.pop(0)
        if command and _WORDS.fullmatch(command[0]):
            yield command[1:]


def mistake_in(arguments: list[str]) -> str:
    """What the program would complain of, were it called so; empty where it would not.

    Options before the command act as soon as they are parsed (``--install-completion`` writes to the user's home), so
    it is only looked whether they exist.
    """
    command = _program()
    if arguments and arguments[0].startswith("-"):
        known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
        return "" if arguments[0] in known else f"there is no option {arguments[0]}"
    context: Any = None
    path = "pipeline"
    arguments = list(arguments)
    try:
        while True:
            context = command.make_context(path, arguments, parent=context)
            if not hasattr(command, "resolve_command"):
                return ""
            rest = [*context._protected_args, *context.args]
            if not rest:
                return ""
            path, command, arguments = command.resolve_command(context, rest)
    except typer.Exit:  # --help
        return ""
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command prints its help
            return ""
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
