"""Where each value of a configuration came from: the file, the environment, or a default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.config.document import Document
from pipeline.config.models import PipelineConfig
from pipeline.config.positions import Path
from pipeline.config.problems import dotted

__all__ = ["DEFAULT", "origins_of"]

DEFAULT = "default"


def origins_of(
    config: PipelineConfig,
    document: Document,
    resource_options: Mapping[str, BaseModel] | None = None,
) -> dict[str, str]:
    """The origin of each value, by its dotted path.

    Args:
        config: The effective configuration.
        document: The file.
        resource_options: The resources' validated options.
    """
    origins: dict[str, str] = {}
    for path in _paths(config, resource_options or {}):
        written = document.problems.value_at(path) not in (None, "")
        outside = document.problems.outside.get(path, DEFAULT)
        origins[dotted(path)] = document.origin(path) if written else outside
    return origins


def _paths(config: PipelineConfig, resource_options: Mapping[str, BaseModel]) -> Iterator[Path]:
    """The paths of all values, in the order of the file's tables."""
    for kind in ("pipeline", "broker", "database", "jobs"):
        yield from _keys(getattr(config, kind), (kind,))
    for name, resource in config.resource.items():
        options = resource_options.get(name)
        keys: Any = type(options).model_fields if options else resource.options
        yield from (("resource", name, key) for key in keys)
    for name, source in config.source.items():
        yield from _keys(source, ("source", name))
    for index, route in enumerate(config.route):
        yield from _keys(route, ("route", index))
    for name, stage in config.stage.items():
        yield ("stage", name, "use")
        yield from (("stage", name, key) for key in stage.options)


def _keys(table: BaseModel, path: Path) -> Iterator[Path]:
    for name, field in type(table).model_fields.items():
        yield (*path, field.alias or name)
