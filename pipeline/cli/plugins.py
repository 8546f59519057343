"""``pipeline plugins``: what is installed, and what is broken."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption
from pipeline.cli.leaving import FAILED, FINE

if TYPE_CHECKING:
    from pipeline.plugins import LoadedPlugin

__all__ = ["plugins"]


def plugins(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the plugins and local handlers, and what each brings.

    Exits 1 if one is broken.
    """
    from pipeline.cli.console import count, say, show_json, show_table
    from pipeline.plugins import load_plugins

    loaded = load_plugins(_local(config))
    rows = [_described(plugin, loaded.hooks) for plugin in loaded.loaded]
    if as_json:
        show_json({"plugins": rows, "broken": len(loaded.broken)})
    else:
        kinds = ("handlers", "connectors", "resources", "tables", "commands", "extensions")
        show_table(
            ("plugin", "distribution", *kinds),
            [(row["name"], row["distribution"], *(_words(row[kind]) for kind in kinds)) for row in rows],
        )
        for plugin in loaded.broken:
            say(f"error: {plugin.error}", style="red", stderr=True)
        if loaded.broken:
            say(count(len(loaded.broken), "broken plugin"), style="red", stderr=True)
    raise typer.Exit(FAILED if loaded.broken else FINE)


def _local(config: Path) -> list[Path]:
    """The local handlers of the pipeline's file; none where there is no default file here."""
    from pipeline.cli.files import find, local_handlers

    if config == DEFAULT and not config.exists():
        return []
    return local_handlers(find(config))


def _words(names: Collection[str]) -> str:
    if isinstance(names, Mapping):
        return "; ".join(f"{hook}: {', '.join(found)}" for hook, found in names.items())
    return ", ".join(names)


def _described(plugin: LoadedPlugin, hooks: Sequence[str]) -> dict[str, Any]:
    extensions = _extensions(plugin, hooks)
    return {
        "name": plugin.name,
        "distribution": plugin.origin,
        "handlers": [handler.name for handler in plugin.handlers],
        "connectors": [scheme for connector in plugin.connectors for scheme in connector.schemes],
        "resources": [resource.name for resource in plugin.resources],
        "tables": [branch.label for branch in plugin.branches],
        "commands": [name for name, _ in plugin.commands],
        "extensions": extensions,
        "error": None if plugin.error is None else str(plugin.error),
    }


def _extensions(plugin: LoadedPlugin, hooks: Sequence[str]) -> dict[str, list[str]]:
    """What the plugin offers to others, by hook; a plugin that fails to say so is broken."""
    from pipeline.errors import PluginError

    if plugin.error is not None:
        return {}
    try:
        found = {hook: plugin.extensions(hook) for hook in hooks}
    except PluginError as error:
        plugin.error = error
        return {}
    return {hook: [_name(item) for item in items] for hook, items in found.items() if items}


def _name(item: Any) -> str:
    return str(getattr(item, "name", "") or getattr(item, "__qualname__", "") or item)
