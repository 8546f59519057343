"""Hooks that plugins add for further plugins: declared before any plugin is registered, called when asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pluggy

from pipeline import hookspecs
from pipeline.errors import PluginError

if TYPE_CHECKING:
    from pipeline.plugins import LoadedPlugin

__all__ = ["Extensions", "declare_hooks"]

_HOOK = "pipeline_hookspecs"


class Extensions(Mapping[str, Sequence[Any]]):
    """What plugins return from the hooks that other plugins added, by the hook's name, in the order of loading.

    A hook is called when it is first asked for, and once: what it returns may take long to import.

    Args:
        finders: By hook what calls each plugin's implementation.
    """

    def __init__(self, finders: Mapping[str, Sequence[Callable[[], Sequence[Any]]]]) -> None:
        self._finders = finders
        self._found: dict[str, tuple[Any, ...]] = {}

    def __getitem__(self, hook: str) -> Sequence[Any]:
        """All that plugins return from a hook; empty where none implements it.

        Raises:
            KeyError: No plugin added a hook of this name.
            PluginError: A plugin's implementation failed, or returned no list.
        """
        if hook not in self._found:
            self._found[hook] = tuple(item for find in self._finders[hook] for item in find())
        return self._found[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self._finders)

    def __len__(self) -> int:
        return len(self._finders)


def declare_hooks(manager: pluggy.PluginManager, plugins: Sequence[LoadedPlugin]) -> tuple[str, ...]:
    """Add the hooks that imported plugins bring; their names, in order.

    A plugin whose hooks can't be used gets an `error`, and its hooks are left out.
    """
    owners: dict[str, LoadedPlugin] = {}
    for plugin in plugins:
        if plugin.error is not None:
            continue
        try:
            for namespace in _namespaces(plugin.module):
                names = _hooks_in(namespace, manager, owners)
                manager.add_hookspecs(namespace)
                owners |= dict.fromkeys(names, plugin)
        except PluginError as error:
            plugin.error = PluginError(f"{plugin}: {error}")
        except Exception as error:  # noqa: BLE001 - a stranger's hook may raise anything
            plugin.error = PluginError(f"{plugin}: {_HOOK}() failed: {type(error).__name__}: {error}")
    return tuple(owners)


def _namespaces(module: Any) -> list[Any]:
    """What the plugin's own `pipeline_hookspecs` returns; asked for in a manager that knows the core's hooks only."""
    scout = pluggy.PluginManager(hookspecs.PROJECT)
    scout.add_hookspecs(hookspecs)
    with suppress(pluggy.PluginValidationError):  # the real registration will say what is wrong
        scout.register(module)
    found: list[Any] = []
    for result in scout.hook.pipeline_hookspecs():
        if not isinstance(result, list | tuple):
            raise PluginError(f"{_HOOK}() returned {result!r}: return a list")
        found += result
    return found


def _hooks_in(namespace: Any, manager: pluggy.PluginManager, owners: Mapping[str, LoadedPlugin]) -> list[str]:
    """The names of the hooks in a module; raises `PluginError` where one of them could not work."""
    if not (inspect.ismodule(namespace) or inspect.isclass(namespace)):
        raise PluginError(f"{_HOOK}() returned {namespace!r}: return modules with hooks")
    where = f"{_HOOK}() returned {namespace.__name__!r}"
    names = [name for name in dir(namespace) if manager.parse_hookspec_opts(namespace, name) is not None]
    if not names:
        raise PluginError(f"{where}, which has no hooks: mark them with @hookspec")
    for name in names:
        if name in owners:
            raise PluginError(f"{where}, whose hook {name!r} {owners[name]} adds already: rename one of them")
        if name.startswith("pipeline_"):
            raise PluginError(f"{where}: the hook {name!r} begins with 'pipeline_', as only the runner's own do")
        options = manager.parse_hookspec_opts(namespace, name)
        if options and (options["firstresult"] or options["historic"]):
            raise PluginError(f"{where}: the hook {name!r} must be marked with @hookspec alone")
        arguments = set(inspect.signature(getattr(namespace, name)).parameters) - {"self"}
        if arguments:
            raise PluginError(f"{where}: the hook {name!r} takes {', '.join(sorted(arguments))}, and must take nothing")
    return names
