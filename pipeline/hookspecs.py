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
_spec = cast("Callable[[F], F]", pluggy.HookspecMarker(PROJECT))
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook."""


@_spec
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:  # type: ignore[empty-body]
    """Handler classes. Decorated functions in the plugin's module are found without this hook."""


@_spec
def pipeline_connectors() -> Sequence[type[Connector]]:  # type: ignore[empty-body]
    """Connectors to brokers, chosen by the scheme of the broker's URL."""


@_spec
def pipeline_resources() -> Sequence[type[Resource[Any]]]:  # type: ignore[empty-body]
    """Kinds of resources, for ``[resource.<name>]``."""


@_spec
def pipeline_tables() -> Sequence[Branch]:  # type: ignore[empty-body]
    """Alembic branches: the plugin's tables, and the folder of its migrations."""


@_spec
def pipeline_commands() -> Sequence[tuple[str, typer.Typer]]:  # type: ignore[empty-body]
    """Command groups: a name, and the Typer app that ``pipeline <name>`` runs."""
