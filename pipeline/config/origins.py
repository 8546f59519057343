"""Every value of a configuration, and where it came from: the file, the environment, or a default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pipeline.config.document import Document
from pipeline.config.models import PipelineConfig
from pipeline.config.positions import Path
from pipeline.config.problems import dotted
from pipeline.config.redact import shown

__all__ = ["DEFAULT", "Value", "values_of"]

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the configuration.

    Attributes:
        path: Where it stands, as a dotted key.
        value: The value as a text, without secrets; empty where there is none.
        origin: Where it came from: ``pipeline.toml:7``, ``environment DATABASE_URL``, ``default``.
    """

    path: str
    value: str
    origin: str


def values_of(
    config: PipelineConfig, document: Document, resource_options: Mapping[str, BaseModel] | None = None
) -> tuple[Value, ...]:
    """All values in the order of the file's tables.

    Args:
        config: The effective configuration.
        document: The file.
        resource_options: The resources' validated options.
    """
    return tuple(
        Value(dotted(path), shown(value, str(path[-1])), _origin(path, document))
        for path, value in _walk(config, resource_options or {})
    )


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
