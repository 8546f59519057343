"""Every value of a configuration, and where it came from: the file, the environment, a handler, or a default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pipeline.config.document import Document
from pipeline.config.models import PipelineConfig, Policy
from pipeline.config.positions import Path
from pipeline.config.problems import dotted
from pipeline.config.redact import shown

__all__ = ["DEFAULT", "EffectivePolicy", "Value", "values_of"]

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the configuration.

    Attributes:
        path: Where it stands, as a dotted key.
        value: The value as a text, without secrets; empty where there is none.
        origin: Where it came from: ``pipeline.toml:7``, ``environment DATABASE_URL``, ``handler audit``, ``default``.
    """

    path: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """A stage's policy, and what it was made of.

    Attributes:
        policy: The policy.
        default: Its handler's.
        handler: The handler's name.
    """

    policy: Policy
    default: Policy
    handler: str


def values_of(
    config: PipelineConfig,
    document: Document,
    resource_options: Mapping[str, BaseModel] | None = None,
    policies: Mapping[str, EffectivePolicy] | None = None,
) -> tuple[Value, ...]:
    """All values in the order of the file's tables.

    Args:
        config: The effective configuration.
        document: The file.
        resource_options: The resources' validated options.
        policies: The stages' policies.
    """
    values = [
        Value(dotted(path), shown(value, str(path[-1])), _origin(path, document))
        for path, value in _walk(config, resource_options or {})
    ]
    for stage, effective in (policies or {}).items():
        path: Path = ("stage", stage, "policy")
        given = dict(_leaves(effective.default.model_dump(mode="json", exclude_unset=True), ()))
        for below, value in _leaves(effective.policy.model_dump(mode="json"), ()):
            place = _written((*path, *below), document)
            said = given.get(below, given.get(below[:-1]))  # a concurrency may have been said in its short form
            origin = f"handler {effective.handler}" if said == value else DEFAULT
            values.append(
                Value(
                    dotted((*path, *below)), shown(value, str(below[-1])), document.origin(place) if place else origin
                )
            )
    return tuple(values)


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """What is not a table, or a list of tables, and has a value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and all(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    elif value is not None:
        yield path, value


def _written(path: Path, document: Document) -> Path | None:
    """Where the file says this, also in a shorter form (a table for a list of one, a text for a table), if it does."""
    value: Any = document.raw
    place: Path = ()
    for part in path:
        if isinstance(value, dict) and isinstance(part, int):
            continue
        if not isinstance(value, dict | list):
            break
        try:
            value = value[part]  # type: ignore[index]  # a list has indexes, a table has keys
        except (KeyError, IndexError, TypeError):
            return None
        place += (part,)
    return place


def _origin(path: Path, document: Document) -> str:
    if document.problems.value_at(path) not in (None, ""):
        return document.origin(path)
    return document.problems.outside.get(path, DEFAULT)


def _walk(config: PipelineConfig, resource_options: Mapping[str, BaseModel]) -> Iterator[tuple[Path, Any]]:
    for kind in ("pipeline", "broker", "database"):
        yield from _items(getattr(config, kind), (kind,))
    yield from (item for item in _items(config.jobs, ("jobs",)) if item[0] != ("jobs", "queue"))
    for name, queue in config.jobs.queue.items():
        given = queue.model_dump(mode="json", exclude_unset=True)  # the rest is as in [jobs]
        yield from ((("jobs", "queue", name, key), value) for key, value in given.items())
    for name, resource in config.resource.items():
        yield ("resource", name, "use"), resource.use
        options = resource_options.get(name)
        if options is not None:
            yield from _items(options, ("resource", name))
    for name, source in config.source.items():
        yield from _items(source, ("source", name))
    for index, route in enumerate(config.route):
        yield from _items(route, ("route", index))
    for name, stage in config.stage.items():
        yield ("stage", name, "use"), stage.use
        yield ("stage", name, "when"), stage.when
        yield from ((("stage", name, key), value) for key, value in stage.options.items())


def _items(table: BaseModel, path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in table.model_dump(mode="json", by_alias=True).items():
        yield (*path, key), value
