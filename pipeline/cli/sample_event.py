"""A plausible first event: a routing key that a route takes, with the fields that its stages ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline.topics import matches

if TYPE_CHECKING:
    from pipeline.config.load import Loaded
    from pipeline.config.models import RouteTable

__all__ = ["publish_command", "sample_event"]

_KEY = re.compile(r"[\w-]+(?:\.[\w-]+)+")
_FIELD = re.compile(r"\bdata((?:\.[A-Za-z_]\w*\b(?!\())+)")
_WORD = "example"


def publish_command(loaded: Loaded, known: Mapping[str, Any]) -> str:
    """The arguments after ``pipeline`` that publish a first event to the file's first route; empty without a route."""
    if not loaded.config.route:
        return ""
    key, data = sample_event(loaded, loaded.config.route[0], known)
    text = json.dumps(data or {"message": "hello"}, ensure_ascii=False).replace("'", r"\u0027")
    return f"publish {key} '{text}'"


def sample_event(loaded: Loaded, route: RouteTable, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A routing key and data for a route.

    They are what a stage's handler gives as an example, where the route takes it. Else the key is one that a stage's
    options mention and the route takes, else the pattern with its wildcards filled in.
    The data holds the required fields of the models that the handlers declare for the key, and the fields that the
    stages' expressions read.

    Args:
        loaded: The configuration.
        route: The route.
        known: Values by field name, for fields whose value matters.
    """
    pattern = route.match[0]
    for name in route.stages:
        example = loaded.handler(name).example(loaded.options(name))
        if example and matches(pattern, example[0]):
            return example[0], dict(example[1])
    options = [loaded.options(name) for name in dict.fromkeys((*route.stages, *route.finally_))]
    mentioned = (text for option in options for text in _keys_in(option) if matches(pattern, text))
    key = next(mentioned, _filled(pattern))
    data: dict[str, Any] = {}
    for name in (*route.stages, *route.finally_):
        for model_pattern, model in loaded.handler(name).models.items():
            if matches(model_pattern, key):
                data |= _required(model.model_json_schema(), known)
                break
    for path in (*_paths_in(route.key), *(path for option in options for path in _fields_in(option, key))):
        _put(data, path, {"event_type": key, **known})
    return key, data


def _filled(pattern: str) -> str:
    return ".".join(_WORD if word in ("*", "#") else word for word in pattern.split("."))


def _keys_in(value: object) -> Iterator[str]:
    """Routing keys: the mapping keys that look like one."""
    if isinstance(value, Mapping):
        yield from (key for key in value if isinstance(key, str) and _KEY.fullmatch(key))
    for part in _parts(value):
        yield from _keys_in(part)


def _fields_in(value: object, key: str) -> Iterator[Sequence[str]]:
    """The paths below ``data`` that texts and expressions read, but for tables whose ``match`` is about other keys."""
    patterns = getattr(value, "match", None)
    if isinstance(patterns, (list, tuple)) and not any(matches(str(pattern), key) for pattern in patterns):
        return
    text = value if isinstance(value, str) else getattr(value, "text", None)
    if isinstance(text, str):
        yield from _paths_in([text])
    for part in _parts(value):
        yield from _fields_in(part, key)


def _paths_in(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for text in texts:
        for found in _FIELD.finditer(text):
            yield found[1].split(".")[1:]


def _parts(value: object) -> Iterator[object]:
    """What a value is made of, but for options that declare ``examples=[]``: a first event is not about them."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        yield from (getattr(value, name) for name, field in fields if field.examples != [])
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value


def _put(data: dict[str, Any], path: Sequence[str], known: Mapping[str, Any]) -> None:
    *parents, name = path
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            return
        data = inner
    data.setdefault(name, known.get(name, _value(name)))


def _value(name: str) -> str:
    return f"{name.removesuffix('_id').replace('_', '-')}-1"


def _required(schema: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The required fields of a JSON Schema's object, each with a value of its type."""
    properties = schema.get("properties", {})
    return {
        name: known[name] if name in known else _of_schema(name, properties.get(name, {}))
        for name in schema.get("required", ())
    }


def _of_schema(name: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    plain: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    return plain.get(str(schema.get("type")), _value(name))
