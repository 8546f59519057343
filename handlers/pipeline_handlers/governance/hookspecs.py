"""The hooks of the governance plugin, for packages that add to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.hookspecs import hookspec

if TYPE_CHECKING:
    from pipeline_handlers.governance.contract import Action


@hookspec
def governance_actions() -> Sequence[type[Action[Any]]]:  # type: ignore[empty-body]
    """Action classes, for ``actions = [{ use = "…" }]``."""
