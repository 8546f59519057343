"""Loading `pipeline.toml`: one file and the environment become one checked configuration, or every problem at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel

from pipeline.config import endpoints
from pipeline.config.catalog import Catalog
from pipeline.config.document import Document, read
from pipeline.config.environment import Environment
from pipeline.config.models import (
    BrokerTable,
    DatabaseTable,
    JobsTable,
    PipelineConfig,
    PipelineTable,
    Policy,
    QueueTable,
    ResourceTable,
    RouteTable,
    StageTable,
)
from pipeline.config.options import check_resources, check_stages
from pipeline.config.origins import EffectivePolicy, Value, values_of
from pipeline.config.positions import Path
from pipeline.config.problems import near
from pipeline.config.queues import (
    check_async,
    check_queues,
    effective_queues,
    queues_of_events,
    queues_of_handlers,
    queues_of_stages,
)
from pipeline.config.routes import check_coalesce, check_condition, check_routes, finally_only, implied_stages
from pipeline.config.tables import Tables
from pipeline.errors import ConfigError, PipelineError, Problem
from pipeline.jobs.contract import INLINE

if TYPE_CHECKING:
    from pipeline.connectors import Connector
    from pipeline.expressions import Expression
    from pipeline.handlers import Handler
    from pipeline.resources import Resource

__all__ = ["Loaded", "load", "peek"]

M = TypeVar("M", bound=BaseModel)

_DATABASE_VARIABLE: Final = "DATABASE_URL"
_TABLE_NAME: Final = re.compile(r"[.\[]")


@dataclass(frozen=True)
class Loaded:
    """A configuration that was checked, and what the plugins make of it.

    Attributes:
        path: The file.
        config: The configuration: defaults filled in, environment applied; stages that routes name without a table are
            among its stages, and resources that handlers need without a table among its resources.
        values: Every value, and where it came from; without secrets.
        warnings: What is probably a mistake, in file order.
        catalog: What the plugins offer; empty where only the shape was checked.
        use_queue: Whether jobs have a queue: the file has a ``[jobs]`` table, or variables say where Redis is. Else the
            runner runs all jobs itself.
        queues: Every queue by name with its effective settings: those of the file, and those that stages use besides.
        queues_of_events: The queues whose jobs all are events of async stages, which are tried as their stages say.
        problems: What is wrong all the same, outside the tables that `load` was told are needed; what it concerns is
            missing here, or as if the file did not say it.
    """

    path: FilePath
    config: PipelineConfig
    values: Sequence[Value]
    warnings: Sequence[Problem]
    catalog: Catalog
    _options: Mapping[str, BaseModel]
    _policies: Mapping[str, EffectivePolicy]
    _resource_options: Mapping[str, BaseModel]
    use_queue: bool = False
    queues: Mapping[str, QueueTable] = field(default_factory=dict)
    queues_of_events: Collection[str] = ()
    _stage_queues: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: Sequence[Problem] = ()

    @property
    def origins(self) -> dict[str, str]:
        """Where each value came from, by its dotted path: ``pipeline.toml:7``, ``environment DATABASE_URL``."""
        return {value.path: value.origin for value in self.values}

    def handler(self, stage: str) -> type[Handler[Any]]:
        """The handler that a stage uses."""
        return self.catalog.handlers[self._stage(stage).use]

    def has_options(self, stage: str) -> bool:
        """Whether there is such a stage, and its options are right."""
        return stage in self._options

    def options(self, stage: str) -> BaseModel:
        """A stage's options, as its handler's model."""
        self._stage(stage)
        return self._options[stage]

    def policy(self, stage: str) -> Policy:
        """A stage's effective policy: the handler's, with what the stage says instead."""
        self._stage(stage)
        return self._policies[stage].policy if stage in self._policies else Policy()

    def queues_of(self, stage: str) -> tuple[str, ...]:
        """The queues that a stage leaves jobs on: its own where it is async, and its handler's; empty for most."""
        self._stage(stage)
        return self._stage_queues.get(stage, ())

    def when(self, stage: str) -> Expression | None:
        """A stage's condition; None where it has none."""
        from pipeline.expressions import compile_expression

        text = self._stage(stage).when
        return compile_expression(text, extra=finally_only(stage, self.config.route), want="bool") if text else None

    @property
    def resources(self) -> tuple[str, ...]:
        """The names of all resources: those in the file, and those that handlers need besides."""
        return tuple(self.config.resource)

    def resource(self, name: str) -> type[Resource[Any]]:
        """The kind of a resource."""
        return self.catalog.resources[self.config.resource[name].use]

    def resource_options(self, name: str) -> BaseModel:
        """A resource's options, as its kind's model."""
        return self._resource_options[name]

    @property
    def connector(self) -> type[Connector]:
        """The connector that serves the broker's URL."""
        return self.catalog.connectors[endpoints.scheme_of(self.config.broker.url or "")]

    def _stage(self, name: str) -> StageTable:
        try:
            return self.config.stage[name]
        except KeyError:
            raise PipelineError(f"there is no stage {name!r}{near(name, self.config.stage)}") from None


def load(
    path: FilePath, environ: Mapping[str, str], catalog: Catalog | None = None, *, needed: Collection[str] = ()
) -> Loaded:
    """Read and check a configuration.

    Args:
        path: The TOML file.
        environ: Environment variables.
        catalog: What the installed plugins offer; without it only the shape is checked, and no default is applied.
        needed: The tables that must be right (``pipeline``, ``database``); what is wrong elsewhere becomes
            `Loaded.problems`. Empty: all must be.

    Raises:
        ConfigError: The file is missing or wrong; it carries every problem that could be found, in file order.
    """
    environment = Environment(environ)
    document = read(path, environment)
    loaded = _checked(path, document, environment, catalog)
    problems = document.problems
    for message in environment.warnings.values():
        problems.warn((), message)
    for name, message in environment.errors.items():
        if not any(message in known.message for known in problems.errors):
            is_database = name == _DATABASE_VARIABLE
            if is_database:  # which was taken for one that is set nowhere
                problems.outside["database", "url"] = f"environment {environment.named(name)}"
            problems.add(("database", "url") if is_database else (), message)
    found = problems.in_order(problems.errors)
    if any(not needed or _concerns(problem, needed) for problem in found):
        raise ConfigError(found)
    return replace(loaded, warnings=tuple(problems.in_order(problems.warnings)), problems=tuple(found))


def peek(path: FilePath, environ: Mapping[str, str]) -> PipelineTable:
    """Only ``[pipeline]``, for the local handlers that must be loaded before the rest can be checked.

    A wrong table is taken for an empty one: `load` complains of it.

    Raises:
        ConfigError: The file is missing or no TOML.
    """
    document = read(path, Environment(environ))
    return _single(Tables(document.raw, document.problems), PipelineTable, "pipeline")


def _checked(path: FilePath, document: Document, environment: Environment, catalog: Catalog | None) -> Loaded:
    tables = Tables(document.raw, document.problems)
    routes = check_routes(tables, catalog)
    stages = {**tables.stages, **implied_stages(routes, tables)}
    for name, stage in stages.items():
        check_condition(stage.when, ("stage", name, "when"), document.problems, finally_only(name, routes))
    config = PipelineConfig(
        pipeline=_single(tables, PipelineTable, "pipeline"),
        broker=_single(tables, BrokerTable, "broker"),
        database=_single(tables, DatabaseTable, "database"),
        jobs=_single(tables, JobsTable, "jobs"),
        resource=tables.resources,
        source=tables.sources,
        route=routes,
        stage=stages,
    )
    if catalog is None:
        return Loaded(path, config, values_of(config, document), (), Catalog(), {}, {}, {})
    context = {"extensions": catalog.extensions, "base": path.parent, "environ": environment}
    options, policies = check_stages(stages, tables, catalog, context)
    check_coalesce(routes, stages, policies, document.problems)
    of_handlers = queues_of_handlers(stages, options, catalog, document.problems)
    used, of_events = queues_of_stages(stages, of_handlers), queues_of_events(stages, of_handlers)
    check_async(stages, document.problems)
    check_queues(config.jobs, used, of_events, document.problems)
    resources = {**tables.resources, **_implied_resources(routes, stages, options, tables, catalog)}
    resource_options = check_resources(resources, tables, catalog, environment, context)
    config = config.model_copy(update={"resource": resources})
    queues = effective_queues(config.jobs, used)
    config = _with_endpoints(config, environment, catalog, document, needs_queue=any(name != INLINE for name in queues))
    values = values_of(config, document, resource_options, policies)
    use_queue = "jobs" in document.raw or config.jobs.url is not None
    return Loaded(
        path, config, values, (), catalog, options, policies, resource_options, use_queue, queues, of_events, used
    )


def _concerns(problem: Problem, needed: Collection[str]) -> bool:
    """Whether a problem lies in one of these tables, or in an unknown one, which may be a misspelt one of them."""
    table = _TABLE_NAME.split(problem.path, maxsplit=1)[0]
    return table in needed or (table != "" and table not in PipelineConfig.model_fields)


def _single(tables: Tables, model: type[M], kind: str) -> M:
    found = tables.single.get(kind)
    return found if isinstance(found, model) else model()


def _implied_resources(
    routes: Sequence[RouteTable],
    stages: Mapping[str, StageTable],
    options: Mapping[str, BaseModel],
    tables: Tables,
    catalog: Catalog,
) -> dict[str, ResourceTable]:
    """Resources that the handlers in use need, and that the file does not mention."""
    implied: dict[str, ResourceTable] = {}
    for name in dict.fromkeys(name for route in routes for name in (*route.stages, *route.finally_)):
        handler = catalog.handlers.get(stages[name].use) if name in stages else None
        for resource in handler.needs(options[name]) if handler and name in options else ():
            if resource in tables.declared["resource"]:
                continue
            if resource in catalog.resources:
                implied[resource] = ResourceTable(use=resource)
            else:
                tables.problems.add(
                    _mention(name, routes, tables),
                    f"the handler {stages[name].use!r} needs the resource {resource!r}, "
                    f"which no installed plugin offers{near(resource, catalog.resources)}",
                )
    return implied


def _mention(stage: str, routes: Sequence[RouteTable], tables: Tables) -> Path:
    """Where the stage stands: its table, else the first route that names it."""
    if stage in tables.declared["stage"]:
        return ("stage", stage)
    return next(
        (("route", index) for index, route in enumerate(routes) if stage in (*route.stages, *route.finally_)), ()
    )


def _with_endpoints(
    config: PipelineConfig, environment: Environment, catalog: Catalog, document: Document, *, needs_queue: bool
) -> PipelineConfig:
    """The configuration with its URLs filled in."""
    problems, declared = document.problems, "jobs" in document.raw
    found = {
        "broker": endpoints.broker(config.broker.url, environment, catalog, problems),
        "database": endpoints.database(config.database.url, environment, problems),
        "jobs": endpoints.jobs(config.jobs.url, environment, problems, declared=declared, needed=needs_queue),
    }
    filled = {kind: getattr(config, kind).model_copy(update={"url": end.url}) for kind, end in found.items()}
    return config.model_copy(update=filled)
