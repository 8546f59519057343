"""Plugins' commands: found by loading plugins, which is put off until it is needed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from pipeline.hookspecs import PROJECT

if TYPE_CHECKING:
    import typer

__all__ = ["commands_of_plugins", "listed_commands"]

_HOOK = "pipeline_commands"
_HOOK_OF_HOOKS = "pipeline_hookspecs"
_COMPLETION = ("install_completion", "show_completion")
"""Options that an app has as a program of its own."""


def listed_commands(*, rich: bool) -> dict[str, Any]:
    """Commands by name, of the installed plugins whose module's source names the hook for commands.

    Importing every plugin only to list commands would make ``--help`` slow, and so would registering them. A module
    that gets its hook by ``import *`` is missed: its commands work, but are not listed. Where anything is wrong, the
    plugins that matter are loaded in earnest, which says what it is.
    """
    points = _naming(_HOOK)
    try:
        found = [pair for point in points for pair in _commands_in(point.load())]
        if len({name for name, _ in found}) == len(found):
            return _named(found, rich=rich)
    except Exception:  # noqa: BLE001, S110 - whatever a stranger's module raises is told by what follows
        pass
    # A plugin that adds hooks matters too: one with commands may implement them.
    only = {point.name: point for point in (*points, *_naming(_HOOK_OF_HOOKS))}.values()
    return commands_of_plugins(rich=rich, only=only)


def commands_of_plugins(*, rich: bool, only: Collection[EntryPoint] | None = None) -> dict[str, Any]:
    """Commands by name: of these entry points, or of all plugins. A broken plugin is named on standard error.

    Args:
        rich: Draw their help for a terminal, as `pipeline.cli.app.build` does.
        only: Entry points in place of all installed ones.
    """
    from pipeline.cli.console import warn
    from pipeline.plugins import load_plugins

    loaded = load_plugins(installed=only)
    for plugin in loaded.broken:
        warn(str(plugin.error))
    return _named((pair for plugin in loaded.loaded if not plugin.error for pair in plugin.commands), rich=rich)


def _named(found: Iterable[tuple[str, typer.Typer]], *, rich: bool) -> dict[str, Any]:
    commands = {}
    for name, app in found:
        command = get_command(app)
        command.name = name
        command.params = [option for option in command.params if option.name not in _COMPLETION]
        _draw(command, "rich" if rich else None)
        commands[name] = command
    return commands


def _draw(command: Any, mode: str | None) -> None:
    """Let the help of a command, and of those below it, look as that of the built-in ones."""
    command.rich_markup_mode = mode
    for below in getattr(command, "commands", {}).values():
        _draw(below, mode)


def _commands_in(module: Any) -> Iterable[tuple[str, typer.Typer]]:
    """What the module's own implementation of the hook returns; nothing where it has none."""
    hook: Any = getattr(module, _HOOK, None)
    return hook() if hasattr(hook, f"{PROJECT}_impl") else ()


def _naming(hook: str) -> list[EntryPoint]:
    """The entry points whose module's source names a hook, by their names."""
    points = sorted(entry_points(group=PROJECT), key=lambda point: point.name)
    return [point for point in points if _names(hook, point.module)]


def _names(hook: str, module: str) -> bool:
    if (known := sys.modules.get(module)) is not None:
        return hasattr(known, hook)
    try:
        spec = find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else ""  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - a broken plugin is `pipeline plugins`' to report, not the help's
        return False
    return source is None or hook in source
