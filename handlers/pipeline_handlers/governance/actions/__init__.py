"""The actions that come with governance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_handlers.governance.actions.builtin import ACTIONS

__all__ = ["ACTIONS"]


def __getattr__(name: str) -> Any:
    """All actions, when they are asked for: they import the SQL libraries, and the options that live here do not."""
    if name == "ACTIONS":
        from pipeline_handlers.governance.actions.builtin import ACTIONS

        return ACTIONS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
