"""Stages and resources: what they use, their options and policies, checked against the installed plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.catalog import Catalog
from pipeline.config.environment import Environment
from pipeline.config.models import Policy, ResourceTable, StageTable
from pipeline.config.origins import EffectivePolicy
from pipeline.config.positions import Path
from pipeline.config.problems import Problems, keys_of, near
from pipeline.config.tables import Tables
from pipeline.errors import PluginError

__all__ = ["Context", "check_resources", "check_stages", "merged", "options_of"]

_RESERVED = ("use", "when", "async", "policy")

Context = dict[str, Any]
"""What the validators of plugins' options find in ``info.context``: ``extensions``, ``base`` and ``environ``."""


def check_stages(
    stages: Mapping[str, StageTable], tables: Tables, catalog: Catalog, context: Context
) -> tuple[dict[str, BaseModel], dict[str, EffectivePolicy]]:
    """Options and effective policy of each stage; what is wrong is added to the tables' problems."""
    options: dict[str, BaseModel] = {}
    policies: dict[str, EffectivePolicy] = {}
    for name, stage in stages.items():
        path: Path = ("stage", name)
        handler = catalog.handlers.get(stage.use)
        if handler is None:
            if name in tables.declared["stage"]:
                named = "use" in tables.raw["stage"][name]
                hint = ("" if named else " (name one with 'use')") + near(stage.use, catalog.handlers)
                tables.problems.add((*path, "use") if named else path, f"there is no handler {stage.use!r}{hint}")
            continue
        found = options_of(
            handler.Options, stage.options, path, tables.problems, context,
            owner=f"handler {stage.use!r}", reserved=_RESERVED,
        )  # fmt: skip
        if found is not None:
            options[name] = found
        default = handler.policy if found is None else handler.default_policy(found)
        policy = _policy(default, stage.policy, (*path, "policy"), tables.problems)
        if policy is not None:
            policies[name] = EffectivePolicy(policy, default, stage.use)
    return options, policies


def check_resources(
    resources: Mapping[str, ResourceTable],
    tables: Tables,
    catalog: Catalog,
    environment: Environment,
    context: Context,
) -> dict[str, BaseModel]:
    """Options of each resource, from the file, else from the variables that it names."""
    options: dict[str, BaseModel] = {}
    for name, table in resources.items():
        path: Path = ("resource", name)
        kind = catalog.resources.get(table.use)
        if kind is None:
            tables.problems.add(path, f"there is no kind of resource {table.use!r}{near(table.use, catalog.resources)}")
            continue
        given = dict(table.options)
        for option, variable in kind.environment.items():
            value = environment.value(variable)
            if given.get(option) in (None, "") and value is not None:
                given[option] = value
                tables.problems.outside[*path, option] = f"environment {environment.named(variable)}"
        found = options_of(
            kind.Options, given, path, tables.problems, context, owner=f"resource {table.use!r}", reserved=("use",)
        )
        if found is not None:
            options[name] = found
    return options


def options_of(
    model: type[BaseModel],
    given: dict[str, Any],
    path: Path,
    problems: Problems,
    context: Context,
    *,
    owner: str,
    reserved: tuple[str, ...],
) -> BaseModel | None:
    """The options as the plugin's model; None where they are wrong, which is added to the problems."""
    known = keys_of(model, by_name=True)
    if model.model_config.get("extra") != "allow":
        for key in [key for key in given if key not in known]:
            problems.add((*path, key), f"{owner} has no option {key!r}{near(key, (*known, *reserved))}")
        given = {key: value for key, value in given.items() if key in known}
    try:
        return model.model_validate(given, context=context)
    except ValidationError as error:
        problems.validation(error, model, given, path)
    except PluginError:  # of an extension that the options asked for: it names its own plugin
        raise
    except Exception as error:  # noqa: BLE001 - a plugin's validator may raise anything; the user needs the plugin's name
        problems.add(path, f"the options of {owner} could not be checked: {type(error).__name__}: {error}")
    return None


def _policy(default: Policy, overrides: dict[str, Any], path: Path, problems: Problems) -> Policy | None:
    """The handler's policy, with what the stage's table says instead."""
    base = default.model_dump()
    if isinstance(overrides.get("concurrency"), dict) and isinstance(base["concurrency"], int):
        base["concurrency"] = {"limit": base["concurrency"]}  # the same in its long form
    try:
        return Policy.model_validate(merged(base, overrides))
    except ValidationError as error:
        problems.validation(error, Policy, overrides, path)
    return None


def merged(base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The base with what the overrides say instead, also in the tables within it."""
    result = dict(base)
    for key, value in overrides.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
