"""The pipeline's file, as every command reads it: found, loaded with its plugins, or explained."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config.load import Loaded
    from pipeline.plugins import Plugins

__all__ = ["DEFAULT", "ConfigOption", "FileArgument", "JsonOption", "Opened", "find", "open_file"]

DEFAULT = Path("pipeline.toml")

FileArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", help="The pipeline's file.")]
ConfigOption: TypeAlias = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The pipeline's file.")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]


@dataclass(frozen=True, slots=True)
class Opened:
    """A pipeline's file, checked, and the plugins that it was checked against."""

    loaded: Loaded
    plugins: Plugins


def find(path: Path) -> Path:
    """The path itself, where there is a file. Raises `UserError`, which says how to get one."""
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the file in it, as in {path / DEFAULT}")
    if path == DEFAULT:
        raise UserError(f"there is no {path} here: name another file, or write one with 'pipeline init'")
    raise UserError(f"there is no file {path}: write one with 'pipeline init {path}'")


def local_handlers(path: Path) -> list[Path]:
    """The files and folders of local handlers that the file names."""
    from pipeline.config.load import peek

    return [path.parent / handlers for handlers in peek(path, os.environ).handlers]


def open_file(path: Path, *, lenient: bool = False) -> Opened:
    """Load a file with the installed plugins and its local handlers.

    Args:
        path: The file.
        lenient: Only ``[pipeline]`` and ``[database]`` must be right, for who looks after what runs already, with a
            file that somebody is just changing: that other tables or plugins are wrong is a warning, and in
            `Loaded.problems`.

    Raises:
        UserError: There is no such file.
        ConfigError: It is wrong; carries every problem.
        PluginError: A plugin can't be used.
    """
    find(path)
    from pipeline.config.load import load
    from pipeline.plugins import load_plugins

    if lenient:
        return _open_leniently(path)
    plugins = load_plugins(local_handlers(path)).require_sound()
    return Opened(load(path, os.environ, plugins.catalog()), plugins)


def _open_leniently(path: Path) -> Opened:
    from pipeline.cli.console import count, warn
    from pipeline.config.catalog import Catalog
    from pipeline.config.load import load
    from pipeline.errors import PluginError, Problem
    from pipeline.plugins import load_plugins

    wrong: list[Problem] = []
    try:
        plugins = load_plugins(local_handlers(path))
    except PluginError as error:
        wrong.append(Problem(str(error)))
        plugins = load_plugins()
    wrong += [Problem(str(plugin.error)) for plugin in plugins.broken]
    needed = ("pipeline", "database")
    try:
        loaded = load(path, os.environ, plugins.catalog(), needed=needed)
    except PluginError as error:  # of what a plugin offers to others, which nothing here is checked with then
        wrong.append(Problem(str(error)))
        loaded = replace(load(path, os.environ, Catalog(), needed=needed), problems=())
    loaded = replace(loaded, problems=(*wrong, *loaded.problems))
    if loaded.problems:
        warn(f"{path} has {count(len(loaded.problems), 'problem')}: 'pipeline check {path}' shows what is wrong")
    return Opened(loaded, plugins)
