"""The JSON Schema of `pipeline.toml`, for editors: the options of the installed handlers and resources included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.config.catalog import Catalog
from pipeline.config.models import PipelineConfig, Policy, StageTable

__all__ = ["json_schema"]

Schema = dict[str, Any]

_REFERENCE = {"type": "string", "pattern": r"\$\{"}
"""A text with a variable in it: it may stand where a number or a boolean is wanted."""


def json_schema(catalog: Catalog | None = None) -> Schema:
    """The schema of the whole file (draft 2020-12); without a catalog, stages and resources take any options."""
    definitions: dict[str, Schema] = {}
    schema = _of(PipelineConfig, "pipeline", definitions)
    policy = _of(Policy, "pipeline", definitions)
    stage = {
        key: value
        for key, value in _of(StageTable, "pipeline", definitions)["properties"].items()
        if key not in ("options", "use", "policy")
    }
    reserved = {**stage, "policy": {key: value for key, value in policy.items() if key != "required"}}
    handlers = {name: handler.Options for name, handler in catalog.handlers.items()} if catalog else {}
    resources = {name: resource.Options for name, resource in catalog.resources.items()} if catalog else {}
    schema["properties"]["stage"] = _tables(handlers, reserved, definitions)
    schema["properties"]["resource"] = _tables(resources, {}, definitions)
    for unused in ("StageTable", "ResourceTable"):
        definitions.pop(f"pipeline.{unused}", None)
    schema |= {"additionalProperties": False, "$defs": definitions, "title": "pipeline.toml"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_references(schema)}


def _tables(models: Mapping[str, type[BaseModel]], reserved: Schema, definitions: dict[str, Schema]) -> Schema:
    """``[kind.<name>]``: what it uses is ``use``, or its own name where that is left out."""
    if not models:
        return {"type": "object", "additionalProperties": {"type": "object"}}
    named = {name: _table(name, model, reserved, definitions) for name, model in models.items()}
    explicit = [{**table, "required": [*table.get("required", []), "use"]} for table in named.values()]
    return {
        "type": "object",
        "properties": {name: {"anyOf": [table, *explicit]} for name, table in named.items()},
        "additionalProperties": {"anyOf": explicit},
    }


def _table(name: str, model: type[BaseModel], reserved: Schema, definitions: dict[str, Schema]) -> Schema:
    schema = _of(model, name, definitions)
    properties = {"use": {"const": name}, **reserved, **schema.get("properties", {})}
    return {**schema, "type": "object", "properties": properties, "additionalProperties": False}


def _of(model: type[BaseModel], owner: str, definitions: dict[str, Schema]) -> Schema:
    """A model's schema; the models in it go to the definitions, under their owner's name."""
    schema = model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{owner}.{{model}}")
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{owner}.{name}"] = definition
    return schema


def _with_references(schema: Any) -> Any:
    """The same schema, in which every number and boolean may also be a text with a variable in it."""
    if isinstance(schema, list):
        return [_with_references(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("integer", "number", "boolean"):
        described = {key: schema[key] for key in ("title", "description", "default") if key in schema}
        plain = {key: value for key, value in schema.items() if key not in described}
        return {**described, "anyOf": [plain, _REFERENCE]}
    return {key: _with_references(value) for key, value in schema.items()}
