"""What the installed plugins offer, by name: what a configuration may refer to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.connectors import Connector
    from pipeline.handlers import Handler
    from pipeline.resources import Resource

__all__ = ["Catalog"]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Handlers, resources and connectors, and what plugins offer to one another.

    Attributes:
        handlers: Handler classes by the name that a stage's ``use`` gives.
        resources: Resource classes by the name that ``use`` in ``[resource.…]`` gives.
        connectors: Connector classes by the URL schemes that they serve.
        extensions: What all plugins return from the hooks that `pipeline_hookspecs` added, by the hook's name.
    """

    handlers: Mapping[str, type[Handler[Any]]] = field(default_factory=dict)
    resources: Mapping[str, type[Resource[Any]]] = field(default_factory=dict)
    connectors: Mapping[str, type[Connector]] = field(default_factory=dict)
    extensions: Mapping[str, Sequence[Any]] = field(default_factory=dict)
