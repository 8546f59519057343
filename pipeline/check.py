"""The static check: what a configuration means once everything is filled in, route by route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.config.catalog import Catalog
from pipeline.config.load import Loaded, load
from pipeline.config.models import Policy, QueueTable
from pipeline.config.origins import Value
from pipeline.config.problems import dotted
from pipeline.errors import ConfigError, Problem

__all__ = ["QueueReport", "Report", "RouteReport", "StageReport", "Value", "check", "check_file", "tries"]

_OF_QUEUE: Final = ("concurrency", "concurrency.limit")
"""What the policy of an async stage has no say in."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """A stage as a route runs it.

    Attributes:
        name: The stage's name.
        use: The handler.
        when: Its condition; None where it has none.
        policy: The effective policy, in words: time-out, tries, waits, limits.
        resources: What its handler needs.
        is_async: Whether it runs on a worker.
        queues: The queues that it leaves jobs on: its own first where it is async, then its handler's.
        policy_values: Each value of the effective policy, and where it came from.
    """

    name: str
    use: str
    when: str | None
    policy: str
    resources: tuple[str, ...]
    is_async: bool = False
    queues: tuple[str, ...] = ()
    policy_values: tuple[Value, ...] = ()


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
class QueueReport:
    """A queue of jobs with its effective settings.

    Attributes:
        name: The queue's name.
        concurrency: How many of its jobs one worker runs at once.
        attempts: How often a job is tried before it failed.
        backoff: The wait before the second try, in seconds.
        max_backoff: The longest wait, in seconds.
        jitter: The part of each wait that is random.
        keep_completed: How many completed runs are kept.
        keep_failed: How many failed runs are kept.
        max_waiting: How many jobs may wait before the sources that leave them pause; False for any number.
        stages: The stages that leave jobs on it.
        tried_by_policy: Whether its jobs are tried as their stages' policies say, and not as it says itself: it has
            only events of async stages.
    """

    name: str
    concurrency: int
    attempts: int
    backoff: float
    max_backoff: float
    jitter: float
    keep_completed: int
    keep_failed: int
    max_waiting: int | Literal[False]
    stages: tuple[str, ...]
    tried_by_policy: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        file: The file.
        problems: What must be mended; then nothing else is known.
        warnings: What is probably a mistake.
        routes: All routes.
        values: The effective values of everything outside the routes, with their origins.
        queues: All queues of jobs.
        use_queue: Whether workers may run the jobs; else the runner runs them itself.
    """

    file: str
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()
    routes: Sequence[RouteReport] = ()
    values: Sequence[Value] = ()
    queues: Sequence[QueueReport] = ()
    use_queue: bool = False

    @property
    def ok(self) -> bool:
        """Whether a runner would start on it."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        report = asdict(self)
        for route in report["routes"]:
            route["finally"] = route.pop("finally_")
            for stage in (*route["stages"], *route["finally"]):
                stage["async"] = stage.pop("is_async")
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
    queues = [_queue(name, table, loaded) for name, table in loaded.queues.items()]
    return Report(str(loaded.path), (), loaded.warnings, routes, values, queues, loaded.use_queue)


def check_file(path: Path, environ: Mapping[str, str], catalog: Catalog | None = None) -> Report:
    """The report on a file: what it means, or everything that is wrong with it."""
    try:
        return check(load(path, environ, catalog))
    except ConfigError as error:
        return Report(str(path), error.problems)


def _stage(name: str, loaded: Loaded) -> StageReport:
    stage = loaded.config.stage[name]
    handler = loaded.catalog.handlers.get(stage.use)
    resources = handler.resources if handler else ()
    start = f"{dotted(('stage', name, 'policy'))}."
    values = tuple(
        replace(value, path=value.path.removeprefix(start))
        for value in loaded.values
        if value.path.startswith(start) and not (stage.is_async and value.path.removeprefix(start) in _OF_QUEUE)
    )
    words = in_words(loaded.policy(name), is_async=stage.is_async)
    return StageReport(
        name, stage.use, stage.when, words, resources, stage.is_async, loaded.queues_of(name), values
    )  # fmt: skip


def in_words(policy: Policy, *, is_async: bool = False) -> str:
    """A policy in a line; of an async stage without what its queue says in its place."""
    retry, circuit, coalesce = policy.retry, policy.circuit, policy.coalesce
    where = " on each worker" if is_async else ""
    words = ["no time-out" if policy.timeout is False else f"time-out {policy.timeout:g}s"]
    words.append(tries(retry.attempts, retry.backoff, retry.max_backoff))
    if not is_async:
        words.append(f"{policy.limit} at once")
    if policy.per_key is not None:
        words.append(f"{policy.per_key.per_key} at once for each {policy.per_key.key}{where}")
    words += [f"at most {limit}{where}" for limit in policy.rate_limit]
    if circuit is not None:
        calls = f"{circuit.ratio:.0%} of {circuit.minimum} or more calls"
        words.append(f"circuit opens at {calls} failed in {circuit.window:g}s")
    if coalesce is not None:
        words.append(f"coalesces {', '.join(coalesce.match)} in {coalesce.window:g}s")
    return ", ".join(words)


def _queue(name: str, table: QueueTable, loaded: Loaded) -> QueueReport:
    stages = tuple(stage for stage in loaded.config.stage if name in loaded.queues_of(stage))
    settings = table.model_dump()
    by_policy = name in loaded.queues_of_events
    return QueueReport(name=name, stages=stages, tried_by_policy=by_policy, **settings.pop("retry"), **settings)


def tries(attempts: int, backoff: float, max_backoff: float) -> str:
    """How failed tries are repeated, in words."""
    return "1 try" if attempts == 1 else f"{attempts} tries, waits {backoff:g}s to {max_backoff:g}s"
