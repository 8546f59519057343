"""Plugins' commands: found by loading plugins, which is put off until it is needed."""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from typer.main import get_command

from pipeline.hookspecs import PROJECT

__all__ = ["commands_of_plugins", "modules_with_commands"]

_HOOK = "pipeline_commands"


def modules_with_commands() -> list[EntryPoint]:
    """The entry points whose module's source names the hook for commands.

    Importing every plugin only to list commands would make ``--help`` slow. A module that gets its hook by ``import *``
    is missed: its commands work, but are not listed.
    """
    return [point for point in entry_points(group=PROJECT) if _names_the_hook(point.module)]


def commands_of_plugins(only: Collection[EntryPoint] | None = None) -> dict[str, Any]:
    """Commands by name: of these entry points, or of all plugins. A broken plugin is named on standard error."""
    if only is not None and not only:
        return {}
    from pipeline.cli.console import warn
    from pipeline.plugins import load_plugins

    loaded = load_plugins(installed=only)
    for plugin in loaded.broken:
        warn(str(plugin.error))
    commands = {}
    for plugin in loaded.loaded:
        if plugin.error:
            continue
        for name, app in plugin.commands:
            command = get_command(app)
            command.name = name
            commands[name] = command
    return commands


def _names_the_hook(module: str) -> bool:
    if (known := sys.modules.get(module)) is not None:
        return hasattr(known, _HOOK)
    try:
        spec = find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else ""  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - a broken plugin is `pipeline plugins`' to report, not the help's
        return False
    return source is None or _HOOK in source
