"""The hooks that a plugin may implement; each only registers classes or objects, and does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer

    from pipeline.connectors import Connector
    from pipeline.handlers import Handler
    from pipeline.ledger.migrations import Branch
    from pipeline.resources import Resource

PROJECT = "pipeline"
"""The name of the entry-point group, and of the pluggy project."""

F = TypeVar("F", bound="Callable[..., Any]")
hookspec = cast("Callable[[F], F]", pluggy.HookspecMarker(PROJECT))
"""Marks a hook, in a module that a plugin returns from `pipeline_hookspecs`."""
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook."""


@hookspec
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:  # type: ignore[empty-body]
    """Handler classes. Decorated functions in the plugin's module are found without this hook."""


@hookspec
def pipeline_connectors() -> Sequence[type[Connector]]:  # type: ignore[empty-body]
    """Connectors to brokers, chosen by the scheme of the broker's URL."""


@hookspec
def pipeline_resources() -> Sequence[type[Resource[Any]]]:  # type: ignore[empty-body]
    """Kinds of resources, for ``[resource.<name>]``."""


@hookspec
def pipeline_tables() -> Sequence[Branch]:  # type: ignore[empty-body]
    """Alembic branches: the plugin's tables, and the folder of its migrations."""


@hookspec
def pipeline_hookspecs() -> Sequence[Any]:  # type: ignore[empty-body]
    """Modules with hooks of the plugin's own, each marked by `hookspec`, that further plugins may implement.

    A hook takes no arguments and returns a list. What all plugins return is in ``info.context["extensions"][<hook>]``
    for the validators of handlers' and resources' ``Options``, and in `Setup.extensions`; the hook is called when it is
    first asked for there.
    """


@hookspec
def pipeline_commands() -> Sequence[tuple[str, typer.Typer]]:  # type: ignore[empty-body]
    """Command groups: a name, and the Typer app that ``pipeline <name>`` runs."""
