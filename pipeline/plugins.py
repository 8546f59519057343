"""Finding and loading plugins: installed packages by their entry points, local files by their path."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from pipeline import hookspecs
from pipeline.config.catalog import Catalog
from pipeline.connectors import Connector
from pipeline.errors import PluginError, describe
from pipeline.extensions import Extensions, declare_hooks
from pipeline.handlers import Handler, marks_of, refuse_unfit
from pipeline.resources import Resource

if TYPE_CHECKING:
    import typer

    from pipeline.ledger.migrations import Branch

__all__ = ["LoadedPlugin", "Plugins", "load_plugins"]


@dataclass(slots=True)
class LoadedPlugin:
    """One plugin, and what it registers.

    Attributes:
        name: The entry point's name, or the local file's path.
        origin: The distribution and its version, or ``local file``.
        error: Why it can't be used; None where it can.
    """

    name: str
    origin: str
    module: ModuleType | None = None
    error: PluginError | None = None
    handlers: list[type[Handler[Any]]] = field(default_factory=list)
    connectors: list[type[Connector]] = field(default_factory=list)
    resources: list[type[Resource[Any]]] = field(default_factory=list)
    commands: list[tuple[str, typer.Typer]] = field(default_factory=list)
    find_branches: Callable[[], list[Branch]] = list
    find_extensions: dict[str, Callable[[], list[Any]]] = field(default_factory=dict)

    @property
    def branches(self) -> list[Branch]:
        """The tables that it brings; asked for when they are needed, as naming them imports the SQL libraries.

        Raises:
            PluginError: Its hook does not return a list.
        """
        return [] if self.error else self.find_branches()

    def extensions(self, hook: str) -> list[Any]:
        """What it returns from a hook that a plugin added.

        Raises:
            PluginError: Its implementation failed, or returned no list.
        """
        try:
            return self.find_extensions[hook]()
        except PluginError as error:
            raise PluginError(f"{self}: {error}") from None
        except Exception as error:
            raise PluginError(f"{self}: {hook}() failed: {_words(error)}") from error

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.origin})"


@dataclass(frozen=True, slots=True)
class Plugins:
    """All plugins of a run, sound ones and broken ones, in the order of loading.

    Attributes:
        loaded: The plugins.
        hooks: The names of the hooks that plugins added for other plugins.
    """

    loaded: tuple[LoadedPlugin, ...]
    hooks: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[LoadedPlugin, ...]:
        """Those that can't be used."""
        return tuple(plugin for plugin in self.loaded if plugin.error)

    def require_sound(self) -> Plugins:
        """Itself, where every plugin can be used. Raises the `PluginError` of the broken ones, all in one."""
        if self.broken:
            raise PluginError("\n".join(str(plugin.error) for plugin in self.broken))
        return self

    def catalog(self) -> Catalog:
        """What the plugins offer, by name."""
        sound = [plugin for plugin in self.loaded if not plugin.error]
        return Catalog(
            handlers={handler.name: handler for plugin in sound for handler in plugin.handlers},
            resources={resource.name: resource for plugin in sound for resource in plugin.resources},
            connectors={
                scheme: connector for plugin in sound for connector in plugin.connectors for scheme in connector.schemes
            },
            extensions=Extensions(
                {hook: [partial(plugin.extensions, hook) for plugin in sound] for hook in self.hooks}
            ),
        )

    def branches(self) -> list[Branch]:
        """The tables that the plugins bring, as Alembic branches."""
        return [branch for plugin in self.loaded for branch in plugin.branches]


def load_plugins(local: Sequence[Path] = (), *, installed: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load every installed plugin, and the local handlers in these files and folders.

    Args:
        local: ``.py`` files, or folders of them (names that begin with ``_`` or ``.`` are left out).
        installed: Entry points in place of the installed ones, for tests.

    A plugin that can't be used is kept with its error: `Plugins.require_sound` raises it.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    points = entry_points(group=hookspecs.PROJECT) if installed is None else installed
    loaded = [_import_entry_point(point) for point in sorted(points, key=lambda point: point.name)]
    loaded += [_import_file(path) for path in _local_files(local)]
    hooks = declare_hooks(manager, loaded)
    for plugin in loaded:
        if plugin.error is None:
            _register(plugin, manager, hooks)
    _refuse_unknown_hooks(manager, loaded, hooks)
    _refuse_duplicates(loaded)
    return Plugins(tuple(loaded), hooks)


def _import_entry_point(point: EntryPoint) -> LoadedPlugin:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist else "no distribution"
    plugin = LoadedPlugin(point.name, origin)
    try:
        plugin.module = point.load()
    except Exception as error:  # noqa: BLE001 - whatever a stranger's module raises is reported, not ours to choose
        plugin.error = PluginError(
            f"{plugin} failed to import {point.value!r}: {_words(error)}. "
            f"Mend it, install what it needs, or uninstall {point.dist.name if point.dist else point.name}"
        )
    return plugin


def _local_files(local: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in local:
        if path.is_dir():
            files += sorted(file for file in path.glob("*.py") if not file.name.startswith(("_", ".")))
        elif path.suffix == ".py" and path.is_file():
            files.append(path)
        else:
            raise PluginError(f"local handlers {str(path)!r}: there is no such folder or .py file")
    return files


def _import_file(path: Path) -> LoadedPlugin:
    plugin = LoadedPlugin(str(path), "local file")
    # The hash keeps two files of one name apart.
    name = f"pipeline_local_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - a .py file always has a loader
    assert spec.loader is not None  # noqa: S101 - and one that executes
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - whatever a user's file raises is reported with its place
        del sys.modules[name]
        plugin.error = PluginError(f"{plugin} failed to load: {_words(error)}{_line_in(path, error)}")
        return plugin
    plugin.module = module
    return plugin


def _register(plugin: LoadedPlugin, manager: pluggy.PluginManager, hooks: Sequence[str]) -> None:
    module = plugin.module
    try:
        manager.register(module, plugin.name)
        plugin.handlers = marks_of(module)
        plugin.handlers += _call(manager, module, "pipeline_handlers", Handler)
        _refuse_forgotten(module, plugin.handlers)
        plugin.connectors = _call(manager, module, "pipeline_connectors", Connector)
        plugin.resources = _call(manager, module, "pipeline_resources", Resource)
        plugin.find_branches = partial(_call, manager, module, "pipeline_tables", None)
        plugin.find_extensions = {hook: partial(_call, manager, module, hook, None) for hook in hooks}
        plugin.commands = _call(manager, module, "pipeline_commands", None)
    except PluginError as error:
        plugin.error = PluginError(f"{plugin}: {error}")
    except Exception as error:  # noqa: BLE001 - a stranger's hook may raise anything
        plugin.error = PluginError(f"{plugin} could not be registered: {_words(error)}")


def _call(manager: pluggy.PluginManager, module: Any, hook: str, kind: type[Any] | None) -> list[Any]:
    """What one plugin's implementation of a hook returns, each checked to be a subclass of `kind`."""
    others = [other for other in manager.get_plugins() if other is not module]
    found: list[Any] = []
    for result in manager.subset_hook_caller(hook, others)():
        if not isinstance(result, (list, tuple)):
            raise PluginError(f"{hook}() returned {result!r}: return a list")
        found += result
    for item in found:
        if kind is None:
            continue
        if not (isinstance(item, type) and issubclass(item, kind)):
            raise PluginError(f"{hook}() returned {item!r}: return subclasses of pipeline's {kind.__name__}")
        if kind is not Connector and not getattr(item, "name", ""):
            raise PluginError(f"{item.__qualname__} has no name: set the class attribute 'name'")
        if issubclass(item, Handler):
            refuse_unfit(item)
    return found


def _refuse_forgotten(module: Any, registered: list[type[Handler[Any]]]) -> None:
    """A handler class that the module defines and names, but does not register, is most likely forgotten."""
    for item in vars(module).values():
        named = isinstance(item, type) and issubclass(item, Handler) and "name" in vars(item)
        if named and item.__module__ == module.__name__ and not any(issubclass(known, item) for known in registered):
            raise PluginError(
                f"the class {item.__qualname__} (handler {item.name!r}) is not registered: return it from a hook "
                "pipeline_handlers(), or leave its name out where it is a base class"
            )


def _refuse_unknown_hooks(manager: pluggy.PluginManager, loaded: list[LoadedPlugin], hooks: Sequence[str]) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        own = sorted(name for name in vars(hookspecs) if name.startswith("pipeline_"))
        known = ", ".join([*own, *sorted(hooks)])
        for plugin in loaded:
            if plugin.module is error.plugin:
                plugin.error = PluginError(f"{plugin}: {error}. The hooks are: {known}")
        # pluggy names one plugin at a time: look for the next one without it.
        manager.unregister(error.plugin)
        _refuse_unknown_hooks(manager, loaded, hooks)


def _refuse_duplicates(loaded: list[LoadedPlugin]) -> None:
    owners: dict[tuple[str, str], LoadedPlugin] = {}
    for plugin in loaded:
        names = [("handler", handler.name) for handler in plugin.handlers]
        names += [("resource", resource.name) for resource in plugin.resources]
        names += [("broker scheme", scheme) for connector in plugin.connectors for scheme in connector.schemes]
        names += [("command", name) for name, _ in plugin.commands]
        for kind, name in names:
            first = owners.setdefault((kind, name), plugin)
            if first is not plugin or names.count((kind, name)) > 1:
                plugin.error = PluginError(
                    f"{plugin} registers the {kind} {name!r}, which {first} registers already: rename one of them"
                )


def _words(error: BaseException) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):  # of a policy or another model of the plugin's own
        wrong = {".".join(str(part) for part in one["loc"][:1]): one["msg"] for one in error.errors()}
        return f"{error.title}: " + "; ".join(
            f"{key}: {why.removeprefix('Value error, ')}" for key, why in wrong.items()
        )
    return describe(error)


def _line_in(path: Path, error: BaseException) -> str:
    """The last line of this file that the error passed through, for people."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" ({path}:{error.lineno})"
    line, trace = None, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({path}:{line})" if line else ""
