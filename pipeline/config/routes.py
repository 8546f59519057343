"""Routes: their names, sources, patterns, keys, conditions and stages, all checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.config.catalog import Catalog
from pipeline.config.models import RouteTable, StageTable
from pipeline.config.origins import EffectivePolicy
from pipeline.config.positions import Path
from pipeline.config.problems import Problems, near
from pipeline.config.tables import Tables
from pipeline.expressions import FINALLY, ExpressionError, compile_expression
from pipeline.routing import KeyPathError, compile_key
from pipeline.topics import Pattern, PatternError, compile_pattern

__all__ = ["check_coalesce", "check_routes", "implied_stages"]


def check_routes(tables: Tables, catalog: Catalog | None) -> tuple[RouteTable, ...]:
    """The routes with their source and name filled in; what is wrong is added to the tables' problems."""
    problems = tables.problems
    routes = {index: _completed(route, tables, index) for index, route in tables.routes.items()}
    for index, route in routes.items():
        _check_patterns(("route", index), problems)
        _check_key(("route", index), problems)
        check_condition(route.when, ("route", index, "when"), problems, ())
        _check_stages(route, ("route", index), tables, catalog)
    _check_names(routes, tables)
    _check_sources(routes, tables)
    used = {name for route in routes.values() for name in (*route.stages, *route.finally_)}
    for name in tables.declared["stage"]:
        if name not in used:
            problems.warn(("stage", name), f"no route names this stage{near(name, used - set(tables.stages))}")
    return tuple(routes.values())


def implied_stages(routes: tuple[RouteTable, ...], tables: Tables) -> dict[str, StageTable]:
    """Stages that routes name without a table: handlers with their default options."""
    named = dict.fromkeys(name for route in routes for name in (*route.stages, *route.finally_))
    return {name: StageTable(use=name) for name in named if name not in tables.declared["stage"]}


def check_condition(text: str | None, path: Path, problems: Problems, extra: tuple[str, ...]) -> None:
    """Complain of a condition that is no expression, or can't be true."""
    if text is None:
        return
    try:
        compile_expression(text, extra=extra, want="bool")
    except ExpressionError as error:
        problems.add(path, str(error))


def check_coalesce(
    routes: tuple[RouteTable, ...],
    stages: Mapping[str, StageTable],
    policies: Mapping[str, EffectivePolicy],
    problems: Problems,
) -> None:
    """Complain of stages that coalesce events where these wait for no event of their key."""
    for name in [name for name, effective in policies.items() if effective.policy.coalesce is not None]:
        path: Path = ("stage", name, "policy", "coalesce")
        for place, text in _written((*path, "match"), problems):
            _warn_of_suspects(place, compile_pattern(text), problems)
        if stages[name].is_async:
            problems.add(path, "an async stage can't coalesce events: they wait in no lane; leave out 'async', or this")
        for route in routes:
            if name in route.finally_:
                problems.add(
                    path, f"'finally' of the route {route.name!r} names this stage, and nothing is left out there"
                )
            elif name in route.stages and not route.key:
                problems.add(
                    path, f"the route {route.name!r} has no key, so no event of it stands for another: give it a 'key'"
                )


def finally_only(name: str, routes: tuple[RouteTable, ...]) -> tuple[str, ...]:
    """The variables that a stage's condition sees besides the event's own."""
    return FINALLY if any(name in route.finally_ for route in routes) else ()


def _completed(route: RouteTable, tables: Tables, index: int) -> RouteTable:
    sources = tables.declared["source"]
    path: Path = ("route", index, "source")
    source = route.source
    if source and source not in sources:
        tables.problems.add(path, f"there is no [source.{source}]{near(source, sources)}")
    elif not source and len(sources) == 1:
        source = sources[0]
    elif not source and sources:
        tables.problems.add(path, f"there are several sources, so the route must name one of: {', '.join(sources)}")
    elif not source:
        tables.problems.add(("source",), "there is no source: write [source.some-name] with 'stream' and 'group'")
    return route.model_copy(update={"source": source, "name": route.name or route.match[0]})


def _written(path: Path, problems: Problems) -> list[tuple[Path, str]]:
    """The texts at this path, one or a list of them, each with its own place."""
    value = problems.value_at(path)
    if isinstance(value, list):
        return [((*path, index), item) for index, item in enumerate(value) if isinstance(item, str)]
    return [(path, value)] if isinstance(value, str) else []


def _check_patterns(path: Path, problems: Problems) -> None:
    seen: set[str] = set()
    for place, text in _written((*path, "match"), problems):
        try:
            pattern = compile_pattern(text)
        except PatternError as error:
            problems.add(place, str(error))
            continue
        _warn_of_suspects(place, pattern, problems)
        if not text:
            problems.warn(place, "the empty pattern matches only the empty routing key: write '#' for all keys")
        if text in seen:
            problems.warn(place, f"the pattern {text!r} is listed twice")
        seen.add(text)


def _warn_of_suspects(place: Path, pattern: Pattern, problems: Problems) -> None:
    for word in pattern.suspects:
        problems.warn(place, f"{word!r} matches only itself: '*' and '#' are wildcards only as whole words")


def _check_key(path: Path, problems: Problems) -> None:
    for place, text in _written((*path, "key"), problems):
        try:
            compile_key([text])
        except KeyPathError as error:
            problems.add(place, str(error))


def _check_stages(route: RouteTable, path: Path, tables: Tables, catalog: Catalog | None) -> None:
    problems = tables.problems
    for key in ("stages", "finally"):
        seen: set[str] = set()
        for place, name in _written((*path, key), problems):
            if name not in tables.declared["stage"] and catalog is not None and name not in catalog.handlers:
                known = {*tables.declared["stage"], *catalog.handlers}
                problems.add(place, f"there is no stage and no handler {name!r}{near(name, known)}")
            if name in seen:
                problems.add(place, f"{name!r} is listed twice: give the second one a [stage.…] table of its own")
            seen.add(name)
    if not route.stages and not route.finally_:
        problems.warn(path, "the route has no stages: its events count as handled, and nothing happens")


def _check_names(routes: dict[int, RouteTable], tables: Tables) -> None:
    counts = Counter(route.name for route in routes.values())
    seen: set[str] = set()
    for index, route in routes.items():
        if counts[route.name] > 1 and route.name in seen:
            path: Path = ("route", index, "name") if tables.routes[index].name else ("route", index)
            tables.problems.add(
                path, f"another route is called {route.name!r} already: give this one a 'name' of its own"
            )
        seen.add(route.name)


def _check_sources(routes: dict[int, RouteTable], tables: Tables) -> None:
    problems = tables.problems
    readers: dict[tuple[str, str], str] = {}
    for name, source in tables.sources.items():
        other = readers.setdefault((source.stream, source.group), name)
        if other != name:
            problems.add(
                ("source", name, "group"),
                f"[source.{other}] reads the stream {source.stream!r} as group {source.group!r} already: "
                "name another group, or use that source",
            )
        if routes and not any(route.source == name for route in routes.values()):
            problems.warn(("source", name), "no route takes events from this source: all of them will be filtered")
