"""The static check: what a configuration means once everything is filled in, route by route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.catalog import Catalog
from pipeline.config.load import Loaded, load
from pipeline.config.origins import Value
from pipeline.errors import ConfigError, Problem

__all__ = ["Report", "RouteReport", "StageReport", "Value", "check", "check_file"]


@dataclass(frozen=True, slots=True)
class StageReport:
    """A stage as a route runs it.

    Attributes:
        name: The stage's name.
        use: The handler.
        when: Its condition; None where it has none.
        policy: The effective policy, in words: time-out, tries, waits.
        resources: What its handler needs.
    """

    name: str
    use: str
    when: str | None
    policy: str
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouteReport:
    """A route, as it will run.

    Attributes:
        name: The route's name.
        source: Its source.
        match: Its patterns.
        key: The paths of its ordering key.
        when: Its condition; None where it has none.
        stages: Its stages, in order.
        finally_: Its stages at the end.
    """

    name: str
    source: str
    match: tuple[str, ...]
    key: tuple[str, ...]
    when: str | None
    stages: tuple[StageReport, ...]
    finally_: tuple[StageReport, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        file: The file.
        problems: What must be mended; then nothing else is known.
        warnings: What is probably a mistake.
        routes: All routes.
        values: The effective values of everything outside the routes, with their origins.
    """

    file: str
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()
    routes: Sequence[RouteReport] = ()
    values: Sequence[Value] = ()

    @property
    def ok(self) -> bool:
        """Whether a runner would start on it."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        report = asdict(self)
        for route in report["routes"]:
            route["finally"] = route.pop("finally_")
        return {"ok": self.ok, **report}


def check(loaded: Loaded) -> Report:
    """The report on a configuration that could be loaded."""
    routes = [
        RouteReport(
            route.name,
            route.source,
            route.match,
            route.key,
            route.when,
            tuple(_stage(name, loaded) for name in route.stages),
            tuple(_stage(name, loaded) for name in route.finally_),
        )
        for route in loaded.config.route
    ]
    values = [value for value in loaded.values if not value.path.startswith(("route[", "stage."))]
    return Report(str(loaded.path), (), loaded.warnings, routes, values)


def check_file(path: Path, environ: Mapping[str, str], catalog: Catalog | None = None) -> Report:
    """The report on a file: what it means, or everything that is wrong with it."""
    try:
        return check(load(path, environ, catalog))
    except ConfigError as error:
        return Report(str(path), error.problems)


def _stage(name: str, loaded: Loaded) -> StageReport:
    stage = loaded.config.stage[name]
    handler = loaded.catalog.handlers.get(stage.use)
    policy, retry = loaded.policy(name), loaded.policy(name).retry
    timeout = "no time-out" if policy.timeout is False else f"time-out {policy.timeout:g}s"
    tries = "1 try" if retry.attempts == 1 else f"{retry.attempts} tries"
    waits = "" if retry.attempts == 1 else f", waits {retry.backoff:g}s to {retry.max_backoff:g}s"
    words = f"{timeout}, {tries}{waits}, {policy.concurrency} at once"
    return StageReport(name, stage.use, stage.when, words, handler.resources if handler else ())
