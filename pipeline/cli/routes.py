"""``pipeline routes``: which stages a routing key takes, and why."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, open_file
from pipeline.cli.leaving import FAILED, FINE

if TYPE_CHECKING:
    from pipeline.config.load import Loaded
    from pipeline.events import Event
    from pipeline.expressions import Expression
    from pipeline.routing import Explanation, Router

__all__ = ["routes"]

DataOption = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads it
    typer.Option("--data", metavar="JSON", help="An event's data: conditions and ordering keys are evaluated."),
]


def routes(
    key: Annotated[Optional[str], typer.Argument(help="A routing key.")] = None,  # noqa: UP045 - Typer reads it
    config: ConfigOption = DEFAULT,
    source: Annotated[Optional[str], typer.Option(help="Only this source's routes.")] = None,  # noqa: UP045
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the routes; with a routing key, say which of them take it, and why.

    With a key it exits 1 if no route takes it.
    """
    from pipeline.cli.console import show_json
    from pipeline.cli.json_input import parse_object
    from pipeline.errors import UserError
    from pipeline.routing import Router

    if data is not None and key is None:
        raise UserError("--data needs a routing key, as in: pipeline routes order.paid --data '{\"total\": 5}'")
    parsed = None if data is None else parse_object(data, "--data")
    loaded = open_file(config).loaded
    if source is not None and source not in loaded.config.source:
        raise UserError(f"there is no [source.{source}]; the sources are: {', '.join(loaded.config.source)}")
    router = Router(loaded.config.route)
    if key is None:
        found = [_listed(loaded, route) for route in router.routes if source in (None, route.source)]
        show_json({"routes": found}) if as_json else _show_list(found)
        return
    event = None if parsed is None else _event(key, parsed)
    explained = [_explained(loaded, reason, event) for reason in router.explain(key, source)]
    show_json({"routing_key": key, "routes": explained}) if as_json else _show_explained(key, explained)
    raise typer.Exit(FINE if any(route["matched"] for route in explained) else FAILED)


def _listed(loaded: Loaded, route: Router.Route) -> dict[str, Any]:  # type: ignore[name-defined]
    raise NotImplementedError
