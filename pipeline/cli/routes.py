"""``pipeline routes``: which stages a routing key takes, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, open_file
from pipeline.cli.leaving import FAILED, FINE

if TYPE_CHECKING:
    from pipeline.config.load import Loaded
    from pipeline.events import Event
    from pipeline.expressions import Expression
    from pipeline.routing import Explanation, Route

__all__ = ["routes"]


def routes(
    key: Annotated[str | None, typer.Argument(help="A routing key.")] = None,
    config: ConfigOption = DEFAULT,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only this source's routes.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="An event's data, for which conditions and ordering keys are worked out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the routes, or say which of them take a routing key.

    With a key it says why, and exits 1 if no route takes it.
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
        found = [_described(loaded, route, None) for route in router.routes if source in (None, route.source)]
        show_json({"routes": found}) if as_json else _show_list(found)
        return
    event = None if parsed is None else _event(key, parsed)
    explained = [_explained(loaded, explanation, event) for explanation in router.explain(key, source)]
    show_json({"routing_key": key, "routes": explained}) if as_json else _show_explained(key, explained)
    raise typer.Exit(FINE if any(route["matched"] for route in explained) else FAILED)


def _event(key: str, data: dict[str, Any]) -> Event[Any]:
    import time

    from pipeline.events import Event

    return Event("example", key, data, {}, timestamp=int(time.time() * 1000))


def _described(loaded: Loaded, route: Route, event: Event[Any] | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": route.name,
        "source": route.source,
        "match": [pattern.text for pattern in route.patterns],
        "key": list(route.keys),
        "when": _condition(route.when, event),
        "stages": [_stage(loaded, name, event) for name in route.stages],
        "finally": [_stage(loaded, name, event) for name in route.finally_],
    }
    if event is not None:
        described["key_value"] = route.key_of(event)
    return described


def _explained(loaded: Loaded, explanation: Explanation, event: Event[Any] | None) -> dict[str, Any]:
    return _described(loaded, explanation.route, event if explanation.matched else None) | {
        "matched": explanation.matched,
        "pattern": explanation.pattern or None,
        "reason": explanation.reason or None,
    }


def _stage(loaded: Loaded, name: str, event: Event[Any] | None) -> dict[str, Any]:
    stage = loaded.config.stage[name]
    return {
        "name": name,
        "handler": stage.use,
        "async": stage.is_async,
        "queue": stage.async_queue,
        "when": _condition(loaded.when(name), event),
    }


def _condition(when: Expression | None, event: Event[Any] | None) -> dict[str, Any] | None:
    if when is None:
        return None
    if event is None:
        return {"expression": when.text, "holds": None, "reason": None}
    # A condition of a `finally` stage may ask for the outcome, which an event that is only imagined has not.
    holds, reason = when.holds(event.variables())
    return {"expression": when.text, "holds": holds, "reason": reason or None}


def _show_list(found: list[dict[str, Any]]) -> None:
    from pipeline.cli.console import show_table

    show_table(
        ("route", "source", "match", "key", "when", "stages", "finally"),
        [
            (
                route["name"],
                route["source"],
                ", ".join(route["match"]),
                ", ".join(route["key"]) or "-",
                _when(route["when"]) or "-",
                " → ".join(stage["name"] for stage in route["stages"]) or "-",
                " → ".join(stage["name"] for stage in route["finally"]) or "-",
            )
            for route in found
        ],
    )


def _show_explained(key: str, explained: list[dict[str, Any]]) -> None:
    from pipeline.cli.console import say

    for route in explained:
        if route["matched"]:
            say(f"{route['source']}: {route['name']} takes it: {route['pattern']!r} matches", style="green")
            for line in _steps(route):
                say(f"    {line}")
        else:
            say(f"{route['source']}: {route['name']} does not: {route['reason']}", style="dim")
    if not any(route["matched"] for route in explained):
        say(f"no route takes {key!r}: its events are filtered", style="yellow")


def _steps(route: Mapping[str, Any]) -> list[str]:
    lines = []
    if route["when"]:
        lines.append(f"when     {_when(route['when'])}")
    if route["key"]:
        value = f" = {route['key_value']!r}" if "key_value" in route else ""
        lines.append(f"key      {', '.join(route['key'])}{value}")
    for kind in ("stages", "finally"):
        for number, stage in enumerate(route[kind]):
            words = [stage["name"]]
            words += [f"({stage['handler']})"] if stage["handler"] != stage["name"] else []
            words += [f"async on {stage['queue']}"] if stage["async"] else []
            words += [f"when {_when(stage['when'])}"] if stage["when"] else []
            lines.append(f"{'' if number else kind:<8} {' '.join(words)}")
    return lines


def _when(condition: Mapping[str, Any] | None) -> str:
    if condition is None:
        return ""
    if condition["holds"] is None:
        return str(condition["expression"])
    verdict = "holds" if condition["holds"] else "does not hold"
    reason = f": {condition['reason']}" if condition["reason"] else ""
    return f"{condition['expression']}  → {verdict}{reason}"
