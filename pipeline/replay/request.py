"""What a replay is asked for, and the routes and stages that it means."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.config.load import Loaded
from pipeline.config.models import PipelineConfig, RouteTable, SourceTable
from pipeline.config.problems import near
from pipeline.errors import UserError
from pipeline.replay.positions import Position, order, text_of

__all__ = ["Choice", "ReplayRequest", "choose", "replay_table", "routes_again"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What is to run again.

    Attributes:
        begin: Where the range begins: ``first``, an offset, or an aware time.
        end: Where it ends: an offset, which is taken in; an aware time, which is not; or ``now``, the newest message
            when the replay begins.
        source: The source; may be left out where there is one.
        routes: Names of routes; none for all of the source's.
        only: Names of the stages that run; all others, ``finally`` included, are left out. None named: all run.
        name: The replay's name; by default one is made of all of the above, so that the same request goes on with
            the same replay.
    """

    begin: Position
    end: Position = "now"
    source: str | None = None
    routes: Sequence[str] = ()
    only: Sequence[str] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A request, checked against a pipeline.

    Attributes:
        source: The source's name.
        table: The source's configuration, with the replay's own group and without dedupe.
        routes: The routes with the stages that run.
        stages: The names of all of these stages.
        begin: Where the range begins.
        end: Where it ends.
        name: The replay's name.
        live_group: The source's own group.
        asked: The request as JSON values: what the default name is made of, and what a resumed replay must be asked
            for again.
    """

    source: str
    table: SourceTable
    routes: tuple[RouteTable, ...]
    stages: tuple[str, ...]
    begin: Position
    end: Position
    name: str
    live_group: str
    asked: dict[str, Any]

    @property
    def group(self) -> str:
        """The replay's consumer group."""
        return self.table.group

    @property
    def is_part(self) -> bool:
        """Whether only some of the source's routes or stages run."""
        return bool(self.asked["routes"] or self.asked["only"])


def choose(loaded: Loaded, request: ReplayRequest) -> Choice:
    """What a request means for this pipeline.

    Raises:
        UserError: There is no such source, route or stage, the range is turned round, or the name can't be one.
    """
    source = _source(loaded, request.source)
    begin, end = order(request.begin, request.end)
    routes = _with_stages(_routes(loaded, source, request.routes), request.only)
    stages = tuple(dict.fromkeys(name for route in routes for name in (*route.stages, *route.finally_)))
    asked = {
        "from": text_of(begin),
        "to": text_of(end),
        "routes": sorted(set(request.routes)),
        "only": sorted(set(request.only)),
    }
    table = loaded.config.source[source]
    name = _named(request.name) if request.name is not None else _digest([source, table.stream, asked])
    return Choice(source, replay_table(table, name), routes, stages, begin, end, name, table.group, asked)


def replay_table(table: SourceTable, name: str) -> SourceTable:
    """A source's configuration for its replay of this name: with a group of its own, and without dedupe."""
    return table.model_copy(update={"group": f"{table.group}.replay.{name}", "dedupe": False})


def routes_again(config: PipelineConfig, source: str, asked: Mapping[str, Any]) -> tuple[RouteTable, ...]:
    """The routes of a replay that was asked for, with the stages that run: of those that there still are."""
    names, only = asked.get("routes"), asked.get("only")
    routes = [route for route in config.route if route.source == source and (not names or _name(route) in names)]
    return _cut(routes, only) if only else tuple(routes)


def _source(loaded: Loaded, name: str | None) -> str:
    sources = loaded.config.source
    if name is None:
        if len(sources) == 1:
            return next(iter(sources))
        raise UserError(f"name a source with --source; the sources are: {', '.join(sources)}")
    if name not in sources:
        raise UserError(f"there is no [source.{name}]; the sources are: {', '.join(sources)}")
    return name


def _routes(loaded: Loaded, source: str, names: Iterable[str]) -> list[RouteTable]:
    routes = [route for route in loaded.config.route if route.source == source]
    known = [_name(route) for route in routes]
    if not routes:
        raise UserError(f"source {source!r} has no routes: there is nothing to replay")
    wanted = set(names)
    for name in sorted(wanted.difference(known)):
        raise UserError(f"source {source!r} has no route {name!r}{near(name, known)}")
    return [route for route in routes if not wanted or _name(route) in wanted]


def _with_stages(routes: Sequence[RouteTable], only: Sequence[str]) -> tuple[RouteTable, ...]:
    if not only:
        return tuple(routes)
    known = list(dict.fromkeys(name for route in routes for name in (*route.stages, *route.finally_)))
    for name in only:
        if name not in known:
            raise UserError(f"none of these routes has a stage {name!r}{near(name, known)}")
    return _cut(routes, only)


def _cut(routes: Sequence[RouteTable], only: Sequence[str]) -> tuple[RouteTable, ...]:
    cut = (
        route.model_copy(
            update={
                "stages": tuple(name for name in route.stages if name in only),
                "finally_": tuple(name for name in route.finally_ if name in only),
            }
        )
        for route in routes
    )
    return tuple(route for route in cut if route.stages or route.finally_)


def _name(route: RouteTable) -> str:
    return route.name or route.match[0]


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: write at most 60 letters, digits, '-' and '_', as in fix-1842")
    return name


def _digest(request: Any) -> str:
    """A short name for everything that makes this request another one."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]
