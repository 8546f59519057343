"""Temporal, as a resource that handlers share: a server of one's own, or an embedded one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import Resource, hookimpl
from pipeline_plugins.temporal.resource import TemporalResource

__all__ = ["TemporalResource", "pipeline_resources"]


@hookimpl
def pipeline_resources() -> Sequence[type[Resource[Any]]]:
    """The resource ``temporal``."""
    return [TemporalResource]
