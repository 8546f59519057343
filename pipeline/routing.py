"""Routing: which routes an event takes, by its source and routing key; and what orders it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.config.models import RouteTable
from pipeline.events import Event
from pipeline.expressions import Expression, compile_expression
from pipeline.topics import Pattern, compile_pattern

__all__ = ["Explanation", "KeyPathError", "Route", "Router", "compile_key"]

KeyGetter = Callable[[Event[Any]], str | None]

CACHED_KEYS: Final = 10_000
"""How many routing keys are remembered with their routes; then the memory starts anew."""

_KEY_PATH = re.compile(r"(id|routing_key)|(data|headers)((?:\.[^.]+)+)")


class KeyPathError(ValueError):
    """The text is no path of an ordering key."""


def compile_key(paths: Sequence[str]) -> KeyGetter:
    """A function that gives an event's ordering key: the first of these paths that exists, None where none does.

    A path is ``id``, ``routing_key``, or a field as in ``data.order.id`` and ``headers.tenant``. Texts, numbers and
    booleans are keys, written as JSON writes them; null, objects and lists are none.

    Raises:
        KeyPathError: A text is no such path.
    """
    getters = [_getter(path) for path in paths]
    if not getters:
        return lambda event: None
    if len(getters) == 1:
        return getters[0]

    def first(event: Event[Any]) -> str | None:
        for getter in getters:
            if (key := getter(event)) is not None:
                return key
        return None

    return first


class Route:
    """A route of `pipeline.toml`, ready for events.

    Attributes:
        index: Its place in the file, from 0.
        name: Its name.
        source: The source that it takes events from.
        patterns: The topic patterns; one match is enough.
        keys: The paths of its ordering key.
        key_of: The ordering key of an event, None where it has none.
        when: The condition that an event must meet besides, or None.
        stages: The stages' names, in order.
        finally_: The names of the stages that run at the end.
    """

    __slots__ = ("finally_", "index", "key_of", "keys", "name", "patterns", "source", "stages", "when")

    def __init__(self, table: RouteTable, index: int) -> None:
        """Raises `PatternError`, `KeyPathError` or `ExpressionError`; a loaded configuration has none of these."""
        self.index = index
        self.name = table.name or table.match[0]
        self.source = table.source
        self.patterns: tuple[Pattern, ...] = tuple(compile_pattern(text) for text in table.match)
        self.keys = table.key
        self.key_of = compile_key(table.key)
        self.when: Expression | None = compile_expression(table.when, want="bool") if table.when is not None else None
        self.stages = table.stages
        self.finally_ = table.finally_

    def matches(self, routing_key: str) -> bool:
        """Whether one of the patterns matches; the condition is not asked here."""
        return any(pattern.matches(routing_key) for pattern in self.patterns)

    def __repr__(self) -> str:
        return f"<Route {self.index} {self.name!r} of {self.source!r}>"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a routing key takes a route, or does not.

    Attributes:
        route: The route.
        matched: Whether it takes the key.
        pattern: The pattern that matched; empty where none did.
        reason: For each pattern why it does not match; empty where the route matches.
    """

    route: Route
    matched: bool
    pattern: str = ""
    reason: str = ""


class Router:
    """All routes, in file order.

    Attributes:
        routes: Every route.
    """

    def __init__(self, tables: Sequence[RouteTable]) -> None:
        self.routes = tuple(Route(table, index) for index, table in enumerate(tables))
        self._known: dict[tuple[str, str], tuple[Route, ...]] = {}

    def routes_for(self, source: str, routing_key: str) -> tuple[Route, ...]:
        """The routes of a source that take this routing key, in file order; none means unrouted."""
        found = self._known.get((source, routing_key))
        return self._match(source, routing_key) if found is None else found

    def explain(self, routing_key: str, source: str | None = None) -> list[Explanation]:
        """For each route (of one source, or of all) whether it takes the key, and why or why not."""
        return [_explanation(route, routing_key) for route in self.routes if source is None or route.source == source]

    def _match(self, source: str, routing_key: str) -> tuple[Route, ...]:
        found = tuple(route for route in self.routes if route.source == source and route.matches(routing_key))
        if len(self._known) >= CACHED_KEYS:
            self._known.clear()
        self._known[source, routing_key] = found
        return found


def _explanation(route: Route, routing_key: str) -> Explanation:
    reasons = []
    for pattern in route.patterns:
        reason = pattern.explain(routing_key)
        if not reason:
            return Explanation(route, True, pattern.text)
        reasons.append(f"{pattern.text!r}: {reason}")
    return Explanation(route, False, reason="; ".join(reasons))


def _getter(path: str) -> KeyGetter:
    found = _KEY_PATH.fullmatch(path)
    if found is None:
        raise KeyPathError(f"{path!r} is no path: write id, routing_key, or a field as in data.id or headers.tenant")
    if found[1]:
        return _id if found[1] == "id" else _routing_key
    fields = tuple(found[3].split(".")[1:])
    if found[2] == "headers":
        return lambda event: _key(_field(event.headers, fields))
    if len(fields) == 1:
        name = fields[0]
        return lambda event: _key(event.data.get(name))
    return lambda event: _key(_field(event.data, fields))


def _id(event: Event[Any]) -> str | None:
    return event.id


def _routing_key(event: Event[Any]) -> str | None:
    return event.routing_key


def _field(value: Any, fields: tuple[str, ...]) -> Any:
    for name in fields:
        if not hasattr(value, "get"):
            return None
        value = value.get(name)
    return value


def _key(value: Any) -> str | None:
    if type(value) is str:
        return value
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
