"""From raw tables to typed ones: the shape of `pipeline.toml`, before any name in it is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config.models import (
    BrokerTable,
    DatabaseTable,
    JobsTable,
    PipelineConfig,
    PipelineTable,
    ResourceTable,
    RouteTable,
    SourceTable,
    StageTable,
)
from pipeline.config.positions import Path
from pipeline.config.problems import Problems, keys_of, near

__all__ = ["Tables", "typed"]

M = TypeVar("M", bound=BaseModel)

_SINGLE: dict[str, type[BaseModel]] = {
    "pipeline": PipelineTable,
    "broker": BrokerTable,
    "database": DatabaseTable,
    "jobs": JobsTable,
}
_NAMED: dict[str, type[BaseModel]] = {"resource": ResourceTable, "source": SourceTable, "stage": StageTable}


class Tables:
    """The typed tables of a file; what is wrong with them is added to `problems`.

    Attributes:
        raw: The tables as they were read.
        problems: What is wrong.
        single: ``[pipeline]``, ``[broker]``, ``[database]`` and ``[jobs]``, those that are in the file.
        resources: ``[resource.…]`` by name.
        sources: ``[source.…]`` by name.
        stages: ``[stage.…]`` by name.
        routes: ``[[route]]`` by their index in the file.
        declared: All names in the file by kind, those of wrong tables included.
    """

    def __init__(self, raw: dict[str, Any], problems: Problems) -> None:
        self.raw = raw
        self.problems = problems
        self.single: dict[str, BaseModel] = {}
        self.resources: dict[str, ResourceTable] = {}
        self.sources: dict[str, SourceTable] = {}
        self.stages: dict[str, StageTable] = {}
        self.routes: dict[int, RouteTable] = {}
        self.declared: dict[str, list[str]] = {
            kind: list(raw[kind]) if isinstance(raw.get(kind), dict) else [] for kind in _NAMED
        }
        self._read()

    def _read(self) -> None:
        known = PipelineConfig.model_fields
        for key in self.raw:
            if key not in known:
                self.problems.add((key,), f"unknown table {key!r}{near(key, known)}")
        for kind, model in _SINGLE.items():
            if kind in self.raw and (table := typed(model, self.raw[kind], (kind,), self.problems)):
                self.single[kind] = table
        for name, raw in self._named("resource").items():
            if table := self._split(ResourceTable, name, raw, ("resource", name)):
                self.resources[name] = table
        for name, raw in self._named("source").items():
            if source := typed(SourceTable, raw, ("source", name), self.problems):
                self.sources[name] = source
        for name, raw in self._named("stage").items():
            if stage := self._split(StageTable, name, raw, ("stage", name)):
                self.stages[name] = stage
        self._read_routes(self.raw.get("route", []))

    def _named(self, kind: str) -> dict[str, Any]:
        """``[kind.name]`` tables by name."""
        tables = self.raw.get(kind, {})
        if isinstance(tables, list):
            self.problems.add((kind,), f"it must be a table with a name: write [{kind}.some-name], not [[{kind}]]")
            return {}
        if not isinstance(tables, dict):
            self.problems.add((kind,), f"it must be a table with a name: write [{kind}.some-name]")
            return {}
        model = _NAMED[kind]
        for name in [name for name, table in tables.items() if not isinstance(table, dict)]:
            hint = f": keys stand below [{kind}.some-name]" if name in keys_of(model) or kind == "stage" else ""
            self.problems.add((kind, name), f"it must be a table: write [{kind}.{name}]{hint}")
        return {name: table for name, table in tables.items() if isinstance(table, dict)}

    def _split(self, model: type[M], name: str, raw: dict[str, Any], path: Path) -> M | None:
        """A table whose own keys are reserved, and whose other keys are options of what it uses."""
        reserved = [key for key in keys_of(model) if key != "options"]
        own = {key: value for key, value in raw.items() if key in reserved}
        own.setdefault("use", name)
        own["options"] = {key: value for key, value in raw.items() if key not in reserved}
        return typed(model, own, path, self.problems)

    def _read_routes(self, raw: Any) -> None:
        if isinstance(raw, dict):
            self.problems.add(("route",), "routes are a list: write [[route]], with two brackets")
            return
        if not isinstance(raw, list):
            self.problems.add(("route",), "routes are a list of tables: write [[route]]")
            return
        for index, item in enumerate(raw):
            if route := typed(RouteTable, item, ("route", index), self.problems, {"match": ["#"]}):
                self.routes[index] = route
        if not raw:
            self.problems.add(
                ("route",), "there are no routes: write [[route]] with 'match' and 'stages', or nothing will be handled"
            )


def typed(
    model: type[M], raw: Any, path: Path, problems: Problems, stand_in: Mapping[str, Any] = MappingProxyType({})
) -> M | None:
    """The raw table as this model; what is wrong with it is added to the problems.

    Wrong keys are left out, or replaced by what stands in for them, so that the others can be checked further; None
    where that is not possible either.
    """
    if not isinstance(raw, dict):
        header = f"[{path[-1]}]" if len(path) == 1 else f"[[{path[0]}]]"
        problems.add(path, f"it must be a table: write {header}")
        return None
    known = keys_of(model)
    for key in raw:
        # Models take their fields' Python names too (`finally_`, `is_async`); files take the keys only.
        if key not in known:
            problems.add((*path, key), f"unknown key {key!r}{near(key, known)}")
    given = {key: value for key, value in raw.items() if key in known}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems.validation(error, model, raw, path)
        wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
    try:
        return model.model_validate({**stand_in, **{key: value for key, value in given.items() if key not in wrong}})
    except ValidationError:
        return None
